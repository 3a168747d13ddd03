"""Where the load script writes: colours on a terminal only, wide plain lines elsewhere, silence on a closed pipe."""

import os
import sys
from typing import Never, TextIO

from rich.console import Console

# What a shell reports of a program whose reader has left: 128 + SIGPIPE.
READER_LEFT = 141
PIPED_COLUMNS = 120


class Terminal(Console):
    """A console that takes text as it is (user names may hold brackets) and leaves quietly when its reader does."""

    def on_broken_pipe(self) -> Never:
        """Make the interpreter's own last flush harmless, and end."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(READER_LEFT)


def open_terminal(file: TextIO) -> Terminal:
    """A terminal on `file`. Colour follows NO_COLOR and whether it is a terminal at all (rich's own rules)."""
    width = None if file.isatty() else PIPED_COLUMNS
    return Terminal(file=file, width=width, markup=False, emoji=False, highlight=False)


def speaks_unicode(file: TextIO) -> bool:
    """Whether `file` can take block characters."""
    return (file.encoding or "ascii").lower().replace("-", "").startswith("utf")
