"""Runs the command `sidegate`: in this process, in a pipe, on a terminal."""

import contextlib
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from sidegate.cli import main

ROOT = Path(__file__).parents[2]
SAMPLE_LOG = ROOT / "docs/examples/access.log.gz"
COMMAND = (sys.executable, "-m", "sidegate")
# Variables that affect colours or the configuration.
_REMOVED = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "LINES", "CONFIG", "REDIS_URL", "REDIS_PASSWORD")


class Done(NamedTuple):
    """Exit status and output of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def sidegate(*arguments: str | Path, stdin: bytes = b"") -> Done:
    """Run a command in this process, without a terminal."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
    return Done(status, out.getvalue(), err.getvalue())


def environment(**more: str) -> dict[str, str]:
    """Return the environment of this process without variables that affect colours or the configuration."""
    return {name: value for name, value in os.environ.items() if name not in _REMOVED} | more


def on_a_terminal(
    *arguments: str | Path, columns: int = 120, err_too: bool = True, more: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a command on a terminal; return its status and output. `err_too`: stderr is the terminal as well."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs if err_too else subprocess.DEVNULL,
        env=environment(COLUMNS=str(columns), TERM="xterm-256color", LANG="C.UTF-8", **(more or {})),
        cwd=ROOT,
    )
    os.close(theirs)
    written = b"".join(_until_closed(ours))
    os.close(ours)
    return process.wait(30), written.decode("utf-8")


def _until_closed(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux: the other end is closed
            return
        if not piece:
            return
        yield piece
