"""Finds processes and ports by /proc. Without /proc, the functions return nothing."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Collection
from pathlib import Path

_PROC = Path("/proc")
_LISTENING = "0A"
_LONGEST_COMMAND = 70


def taken(host: str, port: int) -> bool:
    """Whether a server could not listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return True
    return False


def free_port_above(port: int, spoken_for: Collection[int]) -> int:
    free = (each for each in range(port + 1, 65536) if each not in spoken_for and not taken("0.0.0.0", each))
    return next(free, port)


def holder(port: int) -> str:
    """Describe the process that listens on the port, if this user may see it."""
    inodes = _listening_inodes(port)
    for folder in _processes():
        with contextlib.suppress(OSError):
            if any(str(link.readlink()) in inodes for link in (folder / "fd").iterdir()):
                return f"{_command(folder)} (pid {folder.name})"
    return "a process of another user" if inodes else "an unknown process"


def listener(pids: Collection[int], port: int) -> int | None:
    """Return which of these processes listens on the port."""
    inodes = _listening_inodes(port)
    for pid in pids:
        with contextlib.suppress(OSError):
            if any(str(link.readlink()) in inodes for link in (_PROC / str(pid) / "fd").iterdir()):
                return pid
    return None


def marked(run: Path) -> list[int]:
    """Return the ids of the processes of `make start` in this folder: SIDEGATE_RUN in their environment names it."""
    mark = b"SIDEGATE_RUN=" + os.fsencode(run)
    found = []
    for folder in _processes():
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0") and not _is_dead(folder):
                found.append(int(folder.name))
    return found


def end_marked(run: Path, patience_s: float = 5.0) -> bool:
    """Send SIGTERM to the marked processes, after `patience_s` SIGKILL; return whether there were any.

    Repeats the search and the signal: supervisord may start another process meanwhile, and a process between fork and
    exec loses the signal to its parent's handler.
    """
    deadline = time.monotonic() + patience_s
    found = False
    while (pids := marked(run)) and time.monotonic() < deadline + 5:
        found = True
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
        wait_for_end(pids, 0.5)
    return found


def wait_for_end(pids: list[int], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while any(map(_alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_dead(_PROC / str(pid))


def _is_dead(folder: Path) -> bool:
    """Whether it is a zombie: ended, but its parent did not wait for it yet."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{fields[9]}]")
    return found


def _processes() -> list[Path]:
    try:
        return [folder for folder in _PROC.iterdir() if folder.name.isdigit()]
    except OSError:
        return []


def _command(folder: Path) -> str:
    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    program, _, arguments = line.partition(" ")
    text = f"{program.rpartition('/')[2]} {arguments}".strip()
    return text if len(text) <= _LONGEST_COMMAND else text[: _LONGEST_COMMAND - 1] + "…"
