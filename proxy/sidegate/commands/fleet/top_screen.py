"""What `sidegate top` shows: three tables that fit the width they are given."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sidegate.commands.fleet.sidecars import Reply
from sidegate.commands.fleet.traffic import ALWAYS_TOLD, OUTCOMES, Traffic, not_closed, sparkline, traffic_of
from sidegate.commands.output import printable

MOST_KEYS = 10
SPARKLINE_CHARS = 30
# A name of which fewer characters are shown tells nothing.
LEAST_CHARS = 12
_GAP = 2


class Room(NamedTuple):
    """The characters that a terminal has."""

    columns: int
    rows: int


class Column(NamedTuple):
    """A column of a table. One that is `cut` gives up its ends where the room is narrow, one to `spare` its place."""

    title: str
    cells: Sequence[str | Text]
    right: bool = False
    cut: bool = False
    spare: bool = False

    @property
    def width(self) -> int:
        """Characters that it takes uncut."""
        return max(cell_len(str(each)) for each in (self.title, *self.cells))


def screen(replies: Sequence[Reply], room: Room | None) -> RenderableType:
    """All of it; without a room nothing is left out or cut, since a pipe takes all."""
    traffic = traffic_of([reply.content for reply in replies])
    parts: list[RenderableType] = [_sidecars(replies, room), "", _policies(traffic, room), "", _keys(traffic, room)]
    if room is not None:
        parts += ["", Text("q ends", "dim")]
    return Group(*parts)


def _sidecars(replies: Sequence[Reply], room: Room | None) -> Table:
    rows = [_sidecar(reply) for reply in replies]
    names, times, in_flight, configs, stores = zip(*rows, strict=True)
    return _table(
        room,
        Column("sidecar", names),
        Column("round trip", times, right=True, spare=True),
        Column("in flight", in_flight, right=True, spare=True),
        Column("configuration", configs, spare=True),
        Column("store", stores, cut=True),
    )


def _sidecar(reply: Reply) -> tuple[str, str, str, Text, Text]:
    if reply.fault:
        return reply.name, "-", "-", Text("-"), Text(printable(reply.fault), "red")
    state, seconds = reply.content["state"], reply.content["seconds"]
    times = [second["store_ms"] for second in seconds[-10:] if second["store_ms"] is not None]
    config = state["config"]
    return (
        reply.name,
        f"{sum(times) / len(times):.2f} ms" if times else "-",
        str(state["in_flight"]),
        Text(f"{config['hash']} {config['status']}", "" if config["status"] == "ok" else "red"),
        _store(state["store"]),
    )


def _store(store: Mapping[str, Any]) -> Text:
    open_ones = not_closed(store)
    if not store["up"]:
        return Text(printable("; ".join([f"down: {store['reason']}", *open_ones])), "red")
    return Text(printable("; ".join(open_ones)), "red") if open_ones else Text("up", "green")


def _policies(traffic: Traffic, room: Room | None) -> Table:
    """A column for each outcome that occurred; those that refuse most, where not all have room."""
    shown = [outcome for outcome in OUTCOMES if outcome in ALWAYS_TOLD or traffic.sums[outcome]]
    names = traffic.policies()
    most = max(3, room.rows // 3) if room else len(names)
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    names = names[:most]
    return _table(
        room,
        Column("policy", [*names, *more] or ["nothing was decided"], cut=True),
        *(
            Column(
                f"{outcome.replace('_', ' ')}/s",
                [f"{traffic.outcomes[name][outcome] / max(1, traffic.seconds):.1f}" for name in names],
                right=True,
            )
            for outcome in shown
        ),
        Column("last minute", [sparkline(traffic.by_second[name], SPARKLINE_CHARS) for name in names], spare=True),
    )


def _keys(traffic: Traffic, room: Room | None) -> Table:
    entries = traffic.refused_keys[:MOST_KEYS]
    return _table(
        room,
        Column("refused most, last 5 minutes", [printable(each["key"]) for each in entries] or ["none"], cut=True),
        Column("policy", [each["policy"] for each in entries], cut=True),
        Column("refused", [_count(each) for each in entries], right=True),
    )


def _count(entry: Mapping[str, Any]) -> str:
    least = entry["count"] - entry["error"]
    return f"{least}-{entry['count']}" if entry["error"] else str(least)


def _table(room: Room | None, *columns: Column) -> Table:
    """The columns side by side: spare ones are left out from the right, then what may be cut shares what is left."""
    shown = list(columns)
    if room is not None:
        for spare in [each for each in reversed(columns) if each.spare]:
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


def _needed(columns: Sequence[Column]) -> int:
    """Characters that the columns take at the least."""
    return sum((min(LEAST_CHARS, each.width) if each.cut else each.width) + _GAP for each in columns)


def _widths(columns: Sequence[Column], room: Room | None) -> list[int | None]:
    """What each may take; whatever it wants, without a room."""
    if room is None:
        return [None] * len(columns)
    widths: list[int | None] = [each.width for each in columns]
    cut = [number for number, each in enumerate(columns) if each.cut]
    for _ in range(sum(each.width + _GAP for each in columns) - room.columns):
        widest = max(cut, key=lambda number: widths[number] or 0)
        widths[widest] = max(LEAST_CHARS, (widths[widest] or 0) - 1)
    return widths
