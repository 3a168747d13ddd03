"""How commands write: text for a terminal or a pipe, JSON for programs; a reader who has left is no fault."""

import json
import os
import sys
from collections.abc import Mapping

from rich.console import Console, RenderableType

# Without a terminal nobody says how wide a line may be.
_PIPED_WIDTH = 120


def write_text(*parts: RenderableType) -> None:
    """Write to stdout what rich can render: with colour on a terminal only. Text is taken as it is, never as markup."""
    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    console = Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    _write("\n".join(line.rstrip() for line in captured.get().split("\n")))


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
        # The reader has seen enough (`| head`). The interpreter would flush once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
