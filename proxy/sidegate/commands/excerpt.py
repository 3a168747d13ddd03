"""The line of a configuration that a fault is about, with a mark under the place: for people at a terminal."""

import re
from pathlib import Path

from sidegate.commands.output import printable
from sidegate.config import ConfigFault

_WIDEST = 100
# Lines that may hold a secret are not repeated: a terminal's text is copied into tickets.
_MAY_BE_SECRET = re.compile(r"passw|secret|token|://\S*@", re.IGNORECASE)


def excerpt(fault: ConfigFault) -> str:
    """Two lines, or nothing where there is no line to show."""
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
