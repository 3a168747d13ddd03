"""Sidecar processes for tests: `sidegate run` with a configuration of the test."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.forked import ForkedCommand
from tests.recorder import eventually
from tests.servers import StoreServer, free_port

ROOT = Path(__file__).parent.parent
# Bounds every wait for a sidecar to start or to end, which takes half a second.
PATIENCE_S = 60.0

PREFIX = "example:"
# The rate is so low that no token grows during a test, and the burst so large that it never refuses.
ROOMY_BURST = 100_000
ROOMY: Mapping[str, object] = {
    "name": "roomy",
    "match": {"path": ["/**"]},
    "key": "header:X-User-ID | client_ip",
    "limit": "100/day",
    "burst": ROOMY_BURST,
}
# Admits two requests during a test.
TIGHT: Mapping[str, object] = {
    "name": "tight",
    "match": {"path": ["/tight/**"]},
    "key": "header:X-User-ID | client_ip",
    "limit": "1/day",
    "burst": 2,
}
# The demonstration's policy.
DEMONSTRATION: Mapping[str, object] = {
    "name": "ratelimit",
    "match": {"path": ["/api/**"]},
    "key": "header:X-User-ID | client_ip",
    "limit": "10/minute",
    "burst": 15,
    "initial": 10,
}

Config = dict[str, Any]


def configuration(
    store_url: str, upstream_url: str, *, policies: Sequence[Mapping[str, object]] = (ROOMY, TIGHT), **sections: object
) -> Config:
    """A complete configuration; `sections` are merged into it, one level deep."""
    config: Config = {
        "listen": {"host": "127.0.0.1", "port": 0},
        "admin": {"host": "127.0.0.1", "port": free_port()},
        "upstream": {"url": upstream_url},
        # Far more than a local store needs, so that a busy machine does not cause an outage.
        "store": {"url": store_url, "key_prefix": PREFIX, "timeout": "2s"},
        "client_ip": {"trusted_proxies": []},
        "policies": list(policies),
    }
    for name, section in sections.items():
        config[name] = {**config.get(name, {}), **section} if isinstance(section, Mapping) else section
    return config


class Sidecar:
    """A sidecar process. A context manager: on exit it asserts that stderr is empty and that no error was logged."""

    def __init__(
        self,
        config: Config,
        *,
        environment: Mapping[str, str] | None = None,
        file_limits: tuple[int, int] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.config = config
        self.admin_port = int(config["admin"]["port"])
        self.lines: list[dict[str, Any]] = []
        self.raw_lines: list[bytes] = []
        self.exit_status: int | None = None
        self.may_complain = False
        self._folder = tempfile.TemporaryDirectory(prefix="sidecar-")
        self.config_file = Path(self._folder.name) / "config.yaml"
        self.config_file.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
        self._stderr = ""
        self._stderr_file = Path(self._folder.name) / "stderr"
        self.process = ForkedCommand(
            *("run", "--config", str(self.config_file), *arguments),
            environment={**_clean_environment(), **(environment or {})},
            stderr_file=self._stderr_file,
            file_limits=file_limits,
        )
        self._reader = threading.Thread(target=self._read_lines, name="sidecar-log", daemon=True)
        self._reader.start()
        self.port = 0
        self._wait_until_started()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if kind is None and not self.may_complain:
            assert self.stderr == "", self.stderr
            assert self.exit_status == 0, f"it had to be killed: {self.exit_status}"
            traces = [line for line in self.lines if line.get("level") == "error" or "trace" in line]
            assert not traces, traces

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        return self._stderr_file.read_text("utf-8") if self._stderr_file.exists() else self._stderr

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of an event so far."""
        return [line for line in list(self.lines) if line.get("event") == name]

    def wait_for_event(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        eventually(lambda: len(self.events(name)) >= count, f"{count} log lines {name!r}, got {self.lines[-5:]!r}")
        return self.events(name)

    def ask_to_stop(self) -> None:
        """Send SIGTERM; does not wait."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait until the process has ended; returns the exit status."""
        try:
            self.exit_status = self.process.wait(PATIENCE_S)
        finally:
            self._end()
        return self.exit_status

    def stop(self) -> None:
        """Stop the process by SIGTERM, or after a timeout by SIGKILL."""
        if self.process.poll() is None:
            self.ask_to_stop()
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(PATIENCE_S)
        self.exit_status = self.process.returncode
        self._end()

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return self._memory("VmRSS")

    def peak_rss_bytes(self) -> int:
        """Highest resident memory so far."""
        return self._memory("VmHWM")

    def _memory(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text("ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise LookupError(name)

    def _read_lines(self) -> None:
        for raw in self.process.stdout:
            self.raw_lines.append(raw)
            self.lines.append(json.loads(raw))  # raises if a line is not JSON

    def _wait_until_started(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self.events("started"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the sidecar does not start: {self.stderr}\n{self.raw_lines}")
            time.sleep(0.005)
        self.port = int(self.events("started")[0]["port"])
        if not self.config["store"].get("down"):
            deadline = time.monotonic() + 2
            while not (self.events("store_connected") or self.events("store_unavailable")):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.005)

    def _end(self) -> None:
        self._reader.join(PATIENCE_S)
        self.process.stdout.close()
        if self._stderr_file.exists():
            self._stderr = self._stderr_file.read_text("utf-8")
        self._folder.cleanup()


def run_command(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a `sidegate` command until it ends."""
    return subprocess.run(
        [sys.executable, "-m", "sidegate", *arguments],
        cwd=ROOT,
        env={**_clean_environment(), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def spent(store: StoreServer, policy: str = "roomy", burst: int = ROOMY_BURST) -> dict[str, int]:
    """Tokens taken from each bucket of a policy, by key."""
    prefix = f"{PREFIX}{policy}:"
    client: Any = store.client  # redis-py declares bytes or str
    found = {}
    for name in client.keys(f"{prefix}*"):
        found[name.decode().removeprefix(prefix)] = burst - int(client.hget(name, "tokens"))
    return found


def _clean_environment() -> dict[str, str]:
    """This process's environment without the variables that configure a sidecar. Warnings are errors there as well."""
    ours = ("PORT", "ADMIN_PORT", "ADMIN_TOKEN", "REDIS_URL", "REDIS_PASSWORD", "UPSTREAM_URL", "CONFIG")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return {**environment, "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"}
