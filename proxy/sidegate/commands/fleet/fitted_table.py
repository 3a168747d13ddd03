"""Tables that fit the width of a terminal: some columns are left out, others shortened."""

import shutil
import sys
from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

# A name of which fewer characters are shown identifies nothing.
LEAST_CHARS = 12
_GAP = 2


class Room(NamedTuple):
    """Size of the terminal in characters; no rows where the output may scroll."""

    columns: int
    rows: int | None = None


def scrolling_room() -> Room | None:
    """The width of standard output; None for a pipe or a file, which has none."""
    return Room(shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


class FittedColumn(NamedTuple):
    """A column. In a narrow terminal a `cut` one is shortened; those with the highest `spare` are left out first."""

    title: str
    cells: Sequence[str | Text]
    right: bool = False
    cut: bool = False
    spare: int = 0

    @property
    def width(self) -> int:
        """Characters that it needs in full."""
        return max(cell_len(str(each)) for each in (self.title, *self.cells))


def fitted_table(room: Room | None, *columns: FittedColumn) -> Table:
    """The columns side by side. Without a room, as in a pipe, nothing is left out or shortened."""
    shown = list(columns)
    if room is not None:
        for spare in sorted((each for each in columns if each.spare), key=lambda each: -each.spare):
            if _needed(shown) > room.columns:
                shown.remove(spare)
    table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="dim")
    for each, width in zip(shown, _widths(shown, room), strict=True):
        table.add_column(
            each.title,
            justify="right" if each.right else "left",
            overflow="ellipsis" if room else "fold",
            no_wrap=room is not None,
            max_width=width,
        )
    for number in range(max(len(each.cells) for each in shown)):
        table.add_row(*(each.cells[number] if number < len(each.cells) else "" for each in shown))
    return table


def _needed(columns: Sequence[FittedColumn]) -> int:
    """Characters that the columns need at least."""
    return sum((min(LEAST_CHARS, each.width) if each.cut else each.width) + _GAP for each in columns)


def _widths(columns: Sequence[FittedColumn], room: Room | None) -> list[int | None]:
    """The width of each column; None without a room."""
    if room is None:
        return [None] * len(columns)
    widths: list[int | None] = [each.width for each in columns]
    cut = [number for number, each in enumerate(columns) if each.cut]
    for _ in range(sum(each.width + _GAP for each in columns) - room.columns):
        widest = max(cut, key=lambda number: widths[number] or 0)
        widths[widest] = max(LEAST_CHARS, (widths[widest] or 0) - 1)
    return widths
