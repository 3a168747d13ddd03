"""Shows the line of a configuration file that a fault points at, with a mark under the column."""

import re
from pathlib import Path

from sidegate.commands.output import printable
from sidegate.config import ConfigFault

_WIDEST = 100
# Lines that may contain a secret are not shown: terminal output is copied into tickets.
_MAY_BE_SECRET = re.compile(r"passw|secret|token|://\S*@", re.IGNORECASE)


def excerpt(fault: ConfigFault) -> str:
    """Return two lines of text; empty if the fault has no position, or its line is too wide or may contain a secret."""
    if fault.line is None or fault.column is None:
        return ""
    try:
        lines = Path(fault.file).read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    line = lines[fault.line - 1] if fault.line <= len(lines) else ""
    if not line.strip() or _MAY_BE_SECRET.search(line) or fault.column > _WIDEST:
        return ""
    number = f"{fault.line:>6} | "
    return f"{number}{printable(line[:_WIDEST])}\n{' ' * (len(number) - 2)}| {' ' * (fault.column - 1)}^"
