"""Renders a simulation as text: totals, policies with their refusals over time, keys, and notes on the log."""

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sidegate.commands.output import printable
from sidegate.commands.simulate.comparison import key_changes, most_refused, policy_changes
from sidegate.commands.simulate.log_reader import LogReader
from sidegate.commands.simulate.replay import Replay
from sidegate.commands.simulate.report_json import time_text
from sidegate.commands.simulate.tally import PolicyTally, RequestTimeline
from sidegate.commands.spark_bars import ASCII_BLOCKS, BLOCKS, spark_bars
from sidegate.decision.explanation import limit_text

_COLUMNS = 40
# In the table of policies, bars shrink to so many columns, and names are folded at so many.
_NARROWEST_BARS = 8
_NARROWEST_NAME = 12

Replays = Sequence[tuple[str, Replay]]


def as_text(log_name: str, reader: LogReader, replays: Replays) -> list[RenderableType]:
    """Return the report, for `write_text`."""
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
    """A timeline as one line of bars, scaled to the highest; an empty column has no bar.

    It has `narrowest` to _COLUMNS columns, depending on the room there is, and fewer for a short log.
    """

    def __init__(
        self, timeline: RequestTimeline, reader: LogReader, style: str = "", narrowest: int = _COLUMNS
    ) -> None:
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
        counts = self.counts(min(_COLUMNS, options.max_width))
        bars = spark_bars(counts, ASCII_BLOCKS if options.ascii_only else BLOCKS)
        yield Text(bars, self._style, no_wrap=True)


def _log_line(name: str, reader: LogReader) -> Text:
    span = f"{time_text(reader.first_us)} to {time_text(reader.last_us)}"
    formats = ", ".join(f"{form} {count:,}" for form, count in reader.formats.most_common())
    line = f"{printable(name)}: {reader.request_count:,} requests in {reader.lines:,} lines ({formats}), {span}"
    return Text(line, "bold")


def _configuration(name: str, replay: Replay, reader: LogReader) -> Iterator[RenderableType]:
    tally = replay.tally
    passed = tally.passed + tally.unlimited + tally.own_pages
    share = 100 * tally.refused / reader.request_count
    more = f", {tally.ambiguous:,} answered 400" if tally.ambiguous else ""
    yield Text(
        f"{printable(name)}: {passed:,} would pass, {tally.refused:,} would be refused ({share:.2f} %){more}", "bold"
    )
    yield _totals(replay, reader)
    if tally.policies:
        yield ""
        yield _policies(list(tally.policies.values()), reader)
    keys = most_refused(tally)
    if keys:
        yield ""
        at_least = " (lower bounds)" if tally.keys_dropped else ""
        yield _table(
            [f"keys refused most{at_least}", "policy", "requests", "refused"],
            [(key.key, key.policy, f"{key.requests:,}", f"{key.refused:,}") for key in keys],
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
    table.add_column("refusals over time")  # shrinks first on a narrow terminal
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
                f"policy {policy.policy.name}: the first source of the key was absent in some requests: "
                f"{policy.fell_back:,} used a later source, {policy.anonymous:,} the shared bucket anonymous"
            )
        if policy.blocked:
            yield f"policy {policy.policy.name}: {policy.blocked:,} requests had a blocked key"
    if missing := replay.fields_not_in(reader.fields):
        yield f"not in the log: {', '.join(missing)}; conditions on these never match, keys use their next source"
    if tally.unlimited or tally.own_pages:
        yield f"{tally.unlimited:,} requests have no limit, {tally.own_pages:,} are answered by the sidecar itself"
    for reason, count in tally.ambiguous_reasons.most_common(3):
        yield f"{count:,} answered 400: {printable(reason)}"
    logged = [f"{count:,} with {kind}xx" for kind, count in sorted(tally.refused_statuses.items()) if kind]
    if logged:
        yield f"logged status of the requests refused here: {', '.join(logged)}"
    if replay.store.forgotten:
        yield f"{replay.store.forgotten:,} buckets were dropped to bound memory; each may admit one burst too much"


def _log_notes(reader: LogReader) -> Iterator[str]:
    if reader.prefixed:
        yield f"{reader.prefixed:,} lines have a prefix of syslog or a container runtime, which was removed"
    if reader.ended_early:
        yield f"read only up to line {reader.lines:,}: {reader.ended_early}"
    if reader.out_of_order:
        yield f"{reader.out_of_order:,} lines are older than a line before them; each was replayed at its own time"
    if reader.zone_unknown:
        yield f"{reader.zone_unknown:,} times have no offset from UTC and were read as UTC"
    if reader.client_unknown:
        yield f"{reader.client_unknown:,} requests have no client address (a host name?); they count as one client"
    if reader.bad:
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in reader.bad.most_common())
        yield f"{reader.bad.total():,} lines were skipped: {reasons}"


def _width_text(reader: LogReader, columns: int) -> str:
    seconds = max(1, (reader.last_us - reader.first_us) // 1_000_000 / columns)
    for unit, size in (("days", 86_400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table; columns whose first cell is a number are aligned right, except the first column."""
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
