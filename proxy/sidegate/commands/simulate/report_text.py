"""A simulation as text: the totals, each policy with its refusals over time, the keys, and what to know of the log."""

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sidegate.commands.output import printable
from sidegate.commands.simulate.comparison import hit_hardest, key_changes, policy_changes
from sidegate.commands.simulate.log_reader import LogReader
from sidegate.commands.simulate.replay import Replay
from sidegate.commands.simulate.report_json import moment_text
from sidegate.commands.simulate.tally import PolicyTally, Timeline
from sidegate.decision.explanation import limit_text

_COLUMNS = 40
# In a table of policies the bars may shrink to so many columns, and names fold at so many.
_NARROWEST_BARS = 8
_NARROWEST_NAME = 12
_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.:-=+*#"

Replays = Sequence[tuple[str, Replay]]


def as_text(log_name: str, reader: LogReader, replays: Replays) -> list[RenderableType]:
    """The whole report, for `write_text`."""
    parts: list[RenderableType] = [_log_line(log_name, reader)]
    for name, replay in replays:
        parts += ["", *_configuration(name, replay, reader)]
    if len(replays) == 2:
        parts += ["", *_comparison(replays)]
    notes = list(_log_notes(reader))
    if notes:
        parts += ["", *(Text(note, "yellow") for note in notes)]
        parts += [Text(f"  {line}", "yellow", no_wrap=True, overflow="ellipsis") for line in reader.first_bad]
    return parts


class Sparkline:
    """A timeline as bars of one line, the highest as high as the line; no bar where there is nothing.

    Takes `narrowest` columns at least and _COLUMNS at most, as far as there is room and the log is long enough.
    """

    def __init__(self, timeline: Timeline, reader: LogReader, style: str = "", narrowest: int = _COLUMNS) -> None:
        self._timeline = timeline
        self._span = reader.first_us, reader.last_us
        self._style = style
        self._narrowest = narrowest

    def counts(self, columns: int = _COLUMNS) -> list[int]:
        return self._timeline.spread(*self._span, columns)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        widest = len(self.counts())
        return Measurement(min(self._narrowest, widest), widest)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        blocks = _ASCII_BLOCKS if options.ascii_only else _BLOCKS
        counts = self.counts(min(_COLUMNS, options.max_width))
        highest = max(counts, default=0)
        bars = [blocks[-(-count * len(blocks) // highest) - 1] if count else " " for count in counts]
        yield Text("".join(bars), self._style, no_wrap=True)


def _log_line(name: str, reader: LogReader) -> Text:
    span = f"{moment_text(reader.first_us)} to {moment_text(reader.last_us)}"
    return Text(f"{printable(name)}: {reader.requests:,} requests in {reader.lines:,} lines, {span}", "bold")


def _configuration(name: str, replay: Replay, reader: LogReader) -> Iterator[RenderableType]:
    tally = replay.tally
    passed = tally.passed + tally.unlimited + tally.own_pages
    share = 100 * tally.refused / reader.requests
    more = f", {tally.ambiguous:,} answered 400" if tally.ambiguous else ""
    yield Text(f"{printable(name)}: {passed:,} would pass, {tally.refused:,} be refused ({share:.2f} %){more}", "bold")
    yield _totals(replay, reader)
    if tally.policies:
        yield ""
        yield _policies(list(tally.policies.values()), reader)
    hardest = hit_hardest(tally)
    if hardest:
        yield ""
        at_least = " (counts are at least these)" if tally.keys_let_go else ""
        yield _table(
            [f"keys hit hardest{at_least}", "policy", "requests", "refused"],
            [(key.key, key.policy, f"{key.requests:,}", f"{key.refused:,}") for key in hardest],
        )
    notes = list(_notes(replay, reader))
    if notes:
        yield ""
    for note in notes:
        yield Text(note, "yellow")


def _totals(replay: Replay, reader: LogReader) -> Table:
    tally = replay.tally
    grid = Table.grid(padding=(0, 2))
    for name, timeline, style in (
        ("requests", tally.requests_over_time, ""),
        ("refused", tally.refused_over_time, "red"),
    ):
        bars = Sparkline(timeline, reader, style)
        counts = bars.counts()
        grid.add_row(name, bars, f"up to {max(counts):,} in {_width_text(reader, len(counts))}")
    return grid


def _policies(tallies: Sequence[PolicyTally], reader: LogReader) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("policy", overflow="fold", min_width=_NARROWEST_NAME)
    for title in ("requests", "admitted", "refused"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("refusals over time")  # gives way first where the terminal is narrow
    for tally in tallies:
        policy = tally.policy
        refused = f"{tally.shadow_refused:,} (shadow)" if policy.shadow else f"{tally.refused:,}"
        limit = limit_text(policy.limit) if policy.limit else ""
        table.add_row(
            Group(policy.name, Text(limit, "dim")), f"{tally.requests:,}", f"{tally.admitted:,}", refused,
            Sparkline(tally.refusals, reader, "yellow" if policy.shadow else "red", _NARROWEST_BARS),
        )  # fmt: skip
    return table


def _comparison(replays: Replays) -> Iterator[RenderableType]:
    (name, replay), (other, against) = replays
    change = replay.tally.refused - against.tally.refused
    yield Text(f"{printable(name)} refuses {_signed(change)} requests against {printable(other)}", "bold")
    yield _table(
        ["policy", printable(name), printable(other), "change"],
        [
            (item.name, _or_none(item.refused), _or_none(item.refused_against), _signed(item.change))
            for item in policy_changes(replay, against)
        ],
    )
    changes = key_changes(replay, against)
    if changes:
        yield ""
        yield _table(
            ["keys that change most", "policy", printable(name), printable(other), "change"],
            [
                (item.key, item.policy, f"{item.refused:,}", f"{item.refused_against:,}", _signed(item.change))
                for item in changes
            ],
        )


def _notes(replay: Replay, reader: LogReader) -> Iterator[str]:
    tally = replay.tally
    for policy in tally.policies.values():
        if policy.fell_back or policy.anonymous:
            yield (
                f"policy {policy.policy.name}: {policy.fell_back:,} requests were counted by a later source of "
                f"the key, {policy.anonymous:,} by none (anonymous)"
            )
        if policy.blocked:
            yield f"policy {policy.policy.name}: {policy.blocked:,} requests had a blocked key"
    if missing := replay.fields_not_in(reader.fields):
        yield f"the log never holds {', '.join(missing)}: conditions on these never hold, keys take their next source"
    if tally.unlimited or tally.own_pages:
        yield f"{tally.unlimited:,} requests had no limit, {tally.own_pages:,} the sidecar would answer itself"
    for reason, count in tally.ambiguous_reasons.most_common(3):
        yield f"{count:,} answered 400: {printable(reason)}"
    logged = [f"{count:,} with {kind}xx" for kind, count in sorted(tally.refused_statuses.items()) if kind]
    if logged:
        yield f"of the refused, the log answered {', '.join(logged)}"
    if replay.store.forgotten:
        yield f"{replay.store.forgotten:,} buckets were forgotten for want of room: their keys may have had too much"


def _log_notes(reader: LogReader) -> Iterator[str]:
    if reader.ended_early:
        yield f"read up to line {reader.lines:,} only: {reader.ended_early}"
    if reader.out_of_order:
        yield f"{reader.out_of_order:,} lines are older than one before them; each was replayed at its own time"
    if reader.zone_unknown:
        yield f"{reader.zone_unknown:,} times have no known offset from UTC and were read as UTC"
    if reader.client_unknown:
        yield f"{reader.client_unknown:,} requests come from no address (a name?); they count as one client"
    if reader.bad:
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in reader.bad.most_common())
        yield f"{reader.bad.total():,} bad lines were left out: {reasons}"


def _width_text(reader: LogReader, columns: int) -> str:
    seconds = max(1, (reader.last_us - reader.first_us) // 1_000_000 / columns)
    for unit, size in (("days", 86_400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Text in the first columns, numbers to the right where the first row has them."""
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for title, cell in zip(titles, rows[0] if rows else titles, strict=True):
        number = cell.lstrip("+-")[:1].isdigit() and title not in titles[:1]
        table.add_column(title, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _signed(number: int) -> str:
    return f"{number:+,}" if number else "0"


def _or_none(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"
