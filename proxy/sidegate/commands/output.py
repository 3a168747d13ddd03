"""Output of commands: lines of text, JSON for programs, errors. Tables are in `rich_output`.

A closed pipe (`| head`) ends the output without an error. Any other failure to write exits with status 1.
"""

import json
import os
import sys
from collections.abc import Mapping
from threading import Event
from typing import TYPE_CHECKING

from sidegate.telemetry.escaping import terminal_safe

if TYPE_CHECKING:
    from sidegate.config import ConfigError

printable = terminal_safe

# Set once the reader of stdout has closed it.
_closed = Event()


def write_json(document: Mapping[str, object]) -> None:
    """Write one JSON document to stdout in ASCII; bytes that are not UTF-8 appear as lone surrogates."""
    write_raw(json.dumps(document, indent=2) + "\n")


def write_line(text: str) -> None:
    """Write one line to stdout, escaped by `printable`."""
    write_raw(printable(text) + "\n")


def is_stdout_closed() -> bool:
    """Whether the reader of stdout has closed it: a command that follows something can end."""
    return _closed.is_set()


def complain(text: str) -> None:
    """Write an error message to stderr."""
    sys.stderr.write(f"sidegate: {printable(text)}\n")


def complain_of(error: "ConfigError") -> None:
    """Write the faults of a configuration to stderr, one in each line."""
    for fault in error.faults:
        sys.stderr.write(f"{printable(str(fault))}\n")


def write_raw(text: str) -> None:
    """Write text to stdout as it is."""
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
