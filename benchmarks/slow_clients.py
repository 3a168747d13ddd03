"""What slow clients cost the other ones: gunicorn with sync workers behind a sidecar, 200 slow uploads and 200 slow
downloads under way. Prints the latency of fast requests without them and with them, for several sizes of buffers.

On loopback the kernel takes 3 MB for each client, far more than on a network. So the measurement runs in a network
namespace whose send buffers are bounded (Linux, `unshare`); without one it says so and goes on.

Run it with `.venv/bin/python -m benchmarks.slow_clients` after `make applications`; `--help` lists the options.
"""

import argparse
import asyncio
import contextlib
import fcntl
import multiprocessing
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias
from urllib.request import urlopen

import yaml

from benchmarks.bench.laboratory import ROOT, Laboratory, free_port, python

APPS = ROOT / "tests" / "applications" / "apps"
GUNICORN = ROOT / ".venv-apps" / "bin" / "gunicorn"
WORKERS = 4
UPLOAD_BYTES = 32 * 1024
# A slow client sends 2 KiB or reads 16 KiB, then pauses.
SENT_BYTES, READ_BYTES, PAUSE_S = 2048, 16 * 1024, 0.5
# The receive buffer of a slow reader: what the kernel takes for it is not left to the sidecar.
RECEIVE_BUFFER_BYTES = 16 * 1024
PATIENCE_S = 60.0
# For the application to answer the first request of each slow client.
SETTLE_S = 30.0
KIB, MIB = 1024, 1024 * 1024
# A core for one of them would be shared with the clients, whose work is no delay of the sidecar.
_ALL_CORES = ",".join(map(str, sorted(os.sched_getaffinity(0))))
# netdevice(7)
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


class SlowClients:
    """Clients in a process of their own, which send or read slowly, again and again, until the context ends."""

    def __init__(self, port: int, uploads: int, downloads: int, answer_bytes: int, pause_s: float = PAUSE_S) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._begun: Synchronized[int] = spawning.Value("i", 0)
        self._ended: Synchronized[int] = spawning.Value("i", 0)
        self._failed: Synchronized[int] = spawning.Value("i", 0)
        counts = (self._begun, self._ended, self._failed)
        self._process = spawning.Process(target=_drive, args=(port, uploads, downloads, answer_bytes, pause_s, counts))
        self.count = uploads + downloads

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()

    def wait_until_begun(self) -> None:
        """Wait until each client's first request is under way. Raises TimeoutError."""
        until_s = time.monotonic() + PATIENCE_S
        while self._begun.value < self.count:
            if time.monotonic() > until_s:
                raise TimeoutError(f"{self._begun.value} of {self.count} slow clients have begun")
            time.sleep(0.05)

    @property
    def ended(self) -> int:
        """How many slow requests have ended."""
        return self._ended.value

    @property
    def failed(self) -> int:
        """How many slow requests have failed."""
        return self._failed.value


# Slow requests begun (the first one of each client), ended, failed.
Counts: TypeAlias = "tuple[Synchronized[int], Synchronized[int], Synchronized[int]]"


def _drive(port: int, uploads: int, downloads: int, answer_bytes: int, pause_s: float, counts: Counts) -> None:
    async def run() -> None:
        upload = b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % UPLOAD_BYTES
        download = b"GET /bytes/%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % answer_bytes
        kinds = [(upload, UPLOAD_BYTES)] * uploads + [(download, 0)] * downloads
        random.Random(1).shuffle(kinds)
        # Spread over the time of an upload: in step, they would come as one burst again and again.
        each = UPLOAD_BYTES / SENT_BYTES * PAUSE_S / max(1, len(kinds))
        await asyncio.gather(
            *(_repeat(port, head, body, number * each, pause_s, counts) for number, (head, body) in enumerate(kinds))
        )

    asyncio.run(run())


async def _repeat(port: int, head: bytes, body_bytes: int, after_s: float, pause_s: float, counts: Counts) -> None:
    begun, ended, failed = counts
    loop = asyncio.get_running_loop()
    await asyncio.sleep(after_s)
    is_first = True
    while True:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, head)
            begun.value += is_first
            is_first = False
            for _ in range(0, body_bytes, SENT_BYTES):
                await asyncio.sleep(pause_s)
                await loop.sock_sendall(client, bytes(SENT_BYTES))
            answer = await loop.sock_recv(client, READ_BYTES)
            failed.value += not answer.startswith(b"HTTP/1.1 200")
            while answer:
                await asyncio.sleep(pause_s)
                answer = await loop.sock_recv(client, READ_BYTES)
        ended.value += 1


# Measuring


def latencies(ports: Sequence[int], seconds: float) -> list[list[float]]:
    """Milliseconds of fast requests, sorted, for each port. They alternate, so that other work affects all alike.

    A request that takes longer than ten seconds counts as ten seconds.
    """
    request = b"GET /whoami HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    taken: list[list[float]] = [[] for _ in ports]
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        for port, found in zip(ports, taken, strict=True):
            began_s = time.perf_counter()
            with socket.create_connection(("127.0.0.1", port), 10) as client, contextlib.suppress(TimeoutError):
                client.sendall(request)
                while client.recv(65536):
                    pass
            found.append((time.perf_counter() - began_s) * 1000)
            time.sleep(0.005)
    return [sorted(each) for each in taken]


def percentile(taken: list[float], share: float) -> float:
    """A percentile of sorted values."""
    return taken[min(len(taken) - 1, int(len(taken) * share))]


@dataclass(frozen=True, slots=True)
class Row:
    """Settings of one measurement."""

    name: str
    answer_bytes: int
    upstream: dict[str, object]


ROWS = (
    Row("buffers off, 256 KiB answers", 256 * KIB, {"request_buffer": 0, "response_buffer": 0}),
    Row("default, 256 KiB answers", 256 * KIB, {}),
    Row("default, 512 KiB answers", 512 * KIB, {}),
    Row("default, 1 MiB answers", MIB, {}),
    Row("buffer_total 256 MiB, 1 MiB answers", MIB, {"buffer_total": "256MiB"}),
)


def start(laboratory: Laboratory, name: str, store: int, row: Row) -> tuple[int, int]:
    """Start gunicorn and a sidecar in front of it; returns its port and that of its admin listener."""
    upstream, port, admin = free_port(), free_port(), free_port()
    command = (str(GUNICORN), "--bind", f"127.0.0.1:{upstream}", "--workers", str(WORKERS), "--chdir", str(APPS))
    laboratory.start(f"gunicorn-{name}", _ALL_CORES, (*command, "flask_app:app"), upstream)
    config = {
        "listen": {"host": "127.0.0.1", "port": port},
        "admin": {"port": admin},
        "upstream": {"url": f"http://127.0.0.1:{upstream}", **row.upstream},
        "store": {"url": f"redis://127.0.0.1:{store}", "timeout": "1s"},
        "policies": [{"name": "all", "key": "client_ip", "limit": "1000000/s"}],
    }
    file = laboratory.write(f"{name}.yaml", yaml.safe_dump(config))
    laboratory.start(f"sidecar-{name}", _ALL_CORES, python("sidegate", "run", "--config", str(file)), port)
    return port, admin


def metric(admin: int, name: str) -> float:
    """A metric of the sidecar, summed over its labels."""
    with urlopen(f"http://127.0.0.1:{admin}/metrics") as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.split("[ {]", line)[0] == name)


def bounded_send_buffers(kib: int) -> None:
    """Set up the network namespace that this process alone is in: loopback, and the kernel's send buffers."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    Path("/proc/sys/net/ipv4/tcp_wmem").write_text(f"4096 16384 {kib * KIB}\n")


def settle(admin: int, seconds: float) -> None:
    """Wait until the application is free of the slow clients' first requests, for at most so long."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s and metric(admin, "sidegate_upstream_connections") > 1:
        time.sleep(0.2)


def measure(row: Row, options: argparse.Namespace) -> str:
    """One line of the report. A second sidecar, with an application of its own and no slow clients, is the measure."""
    with Laboratory() as laboratory:
        store = free_port()
        laboratory.start_store(store)
        quiet, _ = start(laboratory, "quiet", store, row)
        port, admin = start(laboratory, "slow", store, row)
        _ = latencies([quiet, port], 1)
        with SlowClients(port, options.uploads, options.downloads, row.answer_bytes) as slow:
            slow.wait_until_begun()
            began_s = time.monotonic()
            settle(admin, SETTLE_S)
            settled_s = time.monotonic() - began_s
            before = slow.ended
            without, beside = latencies([quiet, port], options.seconds)
            ended, failed = slow.ended - before, slow.failed
            held = metric(admin, "sidegate_buffered_bytes") / MIB
            exhausted = metric(admin, "sidegate_buffer_exhausted_total")
    figures = " ".join(
        f"{name} {percentile(without, share):5.1f} -> {percentile(beside, share):6.1f} ms"
        f" ({percentile(beside, share) / percentile(without, share):.2f})"
        for name, share in (("p50", 0.5), ("p99", 0.99))
    )
    slow_ones = f"{ended} slow ones ended, {failed} failed, {held:.0f} MiB held, {exhausted:.0f} times no room"
    slow_ones += f"; settled after {settled_s:.0f} s"
    return f"{row.name:36} {figures}; {len(beside)} fast requests, {slow_ones}"


def main() -> int:
    """Measure all rows and print them; returns the exit status: 2 where gunicorn is missing."""
    parser = argparse.ArgumentParser(prog="slow-clients", description=__doc__, allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=10.0, help="of fast requests, for each row")
    parser.add_argument("--uploads", type=int, default=200)
    parser.add_argument("--downloads", type=int, default=200)
    parser.add_argument("--send-buffer", type=int, default=256, metavar="KIB", help="of the kernel, for each client")
    parser.add_argument("--row", default="", help="only rows whose name contains this")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not shutil.which(GUNICORN):
        print(f"slow-clients: {GUNICORN} is missing; run make applications")
        return 2
    if not options.inside:
        isolate = ("unshare", "--net", "--map-root-user")
        if (
            shutil.which("unshare")
            and subprocess.run((*isolate, "true"), check=False, capture_output=True).returncode == 0
        ):
            own = (*isolate, sys.executable, "-m", "benchmarks.slow_clients", *sys.argv[1:], "--inside")
            return subprocess.run(own, check=False).returncode
        print("slow-clients: no network namespace can be made; the kernel's send buffers are not bounded")
    else:
        bounded_send_buffers(options.send_buffer)
    print(f"{WORKERS} sync workers, {options.uploads} slow uploads and {options.downloads} slow downloads")
    for row in ROWS:
        if options.row in row.name:
            print(measure(row, options), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
