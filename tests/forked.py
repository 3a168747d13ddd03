"""Sidecar processes that are forked from a process with Sidegate's modules loaded.

Importing takes most of a sidecar's start, and the tests start hundreds of them. From then on it is the same command in
a process of its own. The command line as a user types it is tested in tests/commands, tests/runtime and tests/deploy.
"""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from sidegate.cli import main

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["sidegate.app", "sidegate.cli", "tests.forked"])


class ForkedCommand:
    """A `sidegate` command under way, with the interface of subprocess.Popen as far as tests use it."""

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str],
        stderr_file: Path,
        file_limits: tuple[int, int] | None = None,
    ) -> None:
        reading, writing = os.pipe()
        options = (arguments, dict(environment), str(stderr_file), file_limits)
        process: Any = _context.Process(target=_run, args=(_Descriptor(writing), *options), daemon=True)
        process.start()
        os.close(writing)
        self._process = process
        self.pid: int = process.pid
        self.stdout = os.fdopen(reading, "rb")

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        """The exit status, or minus the number of the signal that ended it; None while it runs."""
        status: int | None = self._process.exitcode
        return status

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired("sidegate", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Descriptor:
    """A file descriptor that reaches the new process."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> Any:
        return _detached, (DupFd(self._number),)


def _detached(duplicate: Any) -> int:
    number: int = duplicate.detach()
    return number


def _run(
    stdout: int,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    stderr_file: str,
    file_limits: tuple[int, int] | None,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(stdout, 1)
    os.close(stdout)
    with Path(stderr_file).open("wb") as stderr:
        os.dup2(stderr.fileno(), 2)
    sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    sys.stderr.reconfigure(write_through=True)  # type: ignore[union-attr]
    warnings.simplefilter("error")
    if file_limits is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, file_limits)
    sys.exit(main(arguments))
