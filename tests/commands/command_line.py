"""The command `sidegate` as a person or a script uses it: in this process, in a pipe, on a terminal."""

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
# What would decide about colours, and whatever configuration the caller's environment speaks of.
_DECIDING = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "LINES", "CONFIG", "REDIS_URL", "REDIS_PASSWORD")


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def sidegate(*arguments: str | Path, stdin: bytes = b"") -> Done:
    """Run a command in this process, with no terminal anywhere."""
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
    """That of this process, less what would decide about colours."""
    return {name: value for name, value in os.environ.items() if name not in _DECIDING} | more


def on_a_terminal(
    *arguments: str | Path, columns: int = 120, err_too: bool = True, more: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a command on a terminal: its status, and all that it wrote there. `err_too`: stderr is the terminal too."""
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
        except OSError:  # Linux: nobody holds the other end any more
            return
        if not piece:
            return
        yield piece
