"""Prints messages, tables and progress. Uses colour and overwrites lines only on a terminal."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Trouble(Exception):
    """A failure that the user can fix. `advice` are complete lines that say how."""

    def __init__(self, message: str, *advice: str) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


def colourful(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    return f"\033[{_CODES[colour]}m{text}\033[0m" if colourful(stream or sys.stdout) else text


def say(text: str = "") -> None:
    print(text, flush=True)


def step(text: str) -> None:
    say(f"{paint('-', 'cyan')} {text}")


def good(text: str) -> None:
    say(f"{paint('✓', 'green')} {text}")


def complain(trouble: Trouble) -> None:
    lines = [f"{paint('✗', 'red', sys.stderr)} {trouble.message}", *(f"  {line}" for line in trouble.advice)]
    sys.stdout.flush()
    print("\n".join(lines), file=sys.stderr, flush=True)


def tick(text: str) -> None:
    """Overwrite the progress line; prints nothing unless standard output is a terminal."""
    if sys.stdout.isatty():
        print(f"\r\033[K  {text}", end="", flush=True)


def end_ticks() -> None:
    if sys.stdout.isatty():
        print("\r\033[K", end="", flush=True)


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


@contextlib.contextmanager
def foreground() -> Iterator[None]:
    """Make this process the terminal's foreground group: Ctrl-C does not reach `make`, which would report an error."""
    if not sys.stdin.isatty():
        yield
        return
    terminal, before, own = sys.stdin.fileno(), os.getpgrp(), os.getpid()
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        if before != own:
            os.setpgid(0, 0)
        os.tcsetpgrp(terminal, own)
    except OSError:  # not the controlling terminal: Ctrl-C reaches every process, as usual
        yield
        return
    try:
        yield
    finally:
        os.tcsetpgrp(terminal, before)
