"""Output of commands: text for terminals and pipes, JSON for programs.

A closed pipe (`| head`) ends the output without an error. Any other failure to write exits with status 1.
"""

import io
import json
import os
import sys
from collections.abc import Mapping
from threading import Event

from rich.console import Console, RenderableType
from rich.text import Text

from sidegate.config import ConfigError
from sidegate.telemetry.escaping import terminal_safe

printable = terminal_safe

# Columns of tables if stdout is not a terminal.
_PIPED_WIDTH = 120
# Set once the reader of stdout has closed it.
_closed = Event()


class _OutputBuffer(io.StringIO):
    """Text in memory with the encoding of stdout, from which rich chooses its characters."""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only here
        return sys.stdout.encoding or "utf-8"


def write_text(*parts: RenderableType) -> None:
    """Render with rich and write to stdout, with colour on a terminal only. Text is never parsed as markup.

    In a pipe, lines of text are not wrapped, so that grep finds them whole.
    """
    terminal, page = sys.stdout.isatty(), _OutputBuffer()
    console = Console(
        file=page, width=None if terminal else _PIPED_WIDTH, force_terminal=terminal, markup=False, highlight=False,
        emoji=False,
    )  # fmt: skip
    for part in parts:
        if isinstance(part, Text):
            console.print(part, no_wrap=part.no_wrap, overflow=part.overflow, soft_wrap=not terminal)
        else:
            console.print(part)
    _write("\n".join(line.rstrip() for line in page.getvalue().split("\n")))


def write_json(document: Mapping[str, object]) -> None:
    """Write one JSON document to stdout in ASCII; bytes that are not UTF-8 appear as lone surrogates."""
    _write(json.dumps(document, indent=2) + "\n")


def write_line(text: str) -> None:
    """Write one line to stdout, escaped by `printable`."""
    _write(printable(text) + "\n")


def is_stdout_closed() -> bool:
    """Whether the reader of stdout has closed it: a command that follows something can end."""
    return _closed.is_set()


def complain(text: str) -> None:
    """Write an error message to stderr."""
    sys.stderr.write(f"sidegate: {printable(text)}\n")


def complain_of(error: ConfigError) -> None:
    """Write the faults of a configuration to stderr, one in each line."""
    for fault in error.faults:
        sys.stderr.write(f"{printable(str(fault))}\n")


def _write(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_stdout()  # the reader has closed the pipe (`| head`)
    except OSError as error:
        _leave_stdout()
        complain(f"cannot write: {error.strerror}")
        raise SystemExit(1) from error


def _leave_stdout() -> None:
    """Replace stdout by /dev/null: the interpreter flushes once more at exit, and would report the failure again."""
    _closed.set()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
