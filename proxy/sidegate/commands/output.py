"""How commands write: text for a terminal or a pipe, JSON for programs; a reader who has left is no fault."""

import io
import json
import os
import sys
from collections.abc import Mapping

from rich.console import Console, RenderableType
from rich.text import Text

# Without a terminal nobody says how wide a line may be.
_PIPED_WIDTH = 120


class _Page(io.StringIO):
    """What will be written, told which characters stdout takes."""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # as TextIOWrapper has it; nobody sets it
        return sys.stdout.encoding or "utf-8"


def write_text(*parts: RenderableType) -> None:
    """Write to stdout what rich can render: with colour on a terminal only. Text is taken as it is, never as markup.

    In a pipe a line of text stays one line, however long, so that grep finds it whole.
    """
    terminal, page = sys.stdout.isatty(), _Page()
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
    """Write one JSON document to stdout, in ASCII: bytes that are no UTF-8 stand as lone surrogates."""
    _write(json.dumps(document, indent=2) + "\n")


def complain(text: str) -> None:
    """Say on stderr what went wrong."""
    sys.stderr.write(f"sidegate: {printable(text)}\n")


def printable(text: str) -> str:
    """The text with everything escaped that a terminal could take for a command, and lone surrogates."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def _write(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_stdout()  # the reader has seen enough (`| head`)
    except OSError as error:
        _leave_stdout()
        complain(f"cannot write: {error.strerror}")
        raise SystemExit(1) from error


def _leave_stdout() -> None:
    """The interpreter would flush once more at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
