"""Output of commands with tables and colours. Apart from `output`, because rich takes longer to load."""

import io
import sys

from rich.console import Console, RenderableType
from rich.text import Text

from sidegate.commands.output import write_raw

# Columns of tables if stdout is not a terminal.
_PIPED_WIDTH = 120


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
    write_raw("\n".join(line.rstrip() for line in page.getvalue().split("\n")))
