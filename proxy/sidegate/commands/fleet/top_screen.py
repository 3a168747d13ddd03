"""What `sidegate top` and `sidegate status` show: figures of the sidecars, problems, policies, keys."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sidegate.commands.fleet.fitted_table import FittedColumn, Room, fitted_table
from sidegate.commands.fleet.sidecars import SidecarReply
from sidegate.commands.fleet.traffic import (
    CLASSES,
    FIGURES_S,
    POLICIES_S,
    FleetTotals,
    PolicyFigures,
    policy_figures,
    refused_keys,
    sparkline,
    totals_of_overviews,
)
from sidegate.commands.output import printable
from sidegate.telemetry.percent import percent

MOST_KEYS = 10
_REMOVED = " (removed)"
SPARKLINE_CHARS = 30
# A longer name of a sidecar is shortened in a narrow terminal; `127.0.0.1:65535` and the like are not.
LONGEST_NAME_CHARS = 15
_STYLES = {"up": "green", "ok": "green", "slow": "yellow"}


def screen(timelines: Sequence[SidecarReply], policies: Sequence[SidecarReply], room: Room | None) -> RenderableType:
    """The whole screen; without a room nothing is left out or shortened, since a pipe has no width."""
    overviews = [(each, each.content["state"]["overview"] if not each.fault else None) for each in timelines]
    contents = [each.content for each in timelines]
    parts: list[RenderableType] = [sidecar_table(overviews, room)]
    parts += problem_texts(overviews)
    figures = policy_figures([each.content for each in policies], contents)
    parts += ["", _policies(figures, room), "", _keys(contents, figures, room)]
    if room is not None:
        quits = "  q quits" if room.rows is not None else ""
        parts += ["", Text(f"{datetime.now().astimezone():%H:%M:%S}{quits}", "dim")]
    return Group(*parts)


Overviews = Sequence[tuple[SidecarReply, Mapping[str, Any] | None]]


def sidecar_table(overviews: Overviews, room: Room | None) -> Table:
    """One line per sidecar and, for several, one with their totals."""
    rows = [_figures(*each) for each in overviews]
    if len(rows) > 1:
        rows.append(_total_row(totals_of_overviews([each for _, each in overviews if each is not None])))
    names, rates, two, four, limited, five, p50, p99, app_p99, store_p99, in_flight, app, store, config = zip(
        *rows, strict=True
    )
    return fitted_table(
        room,
        FittedColumn(f"last {FIGURES_S} s", names, cut=max(len(str(each)) for each in names) > LONGEST_NAME_CHARS),
        FittedColumn("req/s", rates, right=True),
        FittedColumn("2xx", two, right=True, spare=1),
        FittedColumn("4xx", four, right=True, spare=4),
        FittedColumn("429", limited, right=True),
        FittedColumn("5xx", five, right=True),
        FittedColumn("p50", p50, right=True, spare=3),
        FittedColumn("p99", p99, right=True, spare=2),
        FittedColumn("app p99", app_p99, right=True, spare=7),
        FittedColumn("store p99", store_p99, right=True, spare=8),
        FittedColumn("in flight", in_flight, right=True, spare=5),
        FittedColumn("app", app),
        FittedColumn("store", store),
        FittedColumn("configuration", config, spare=6),
    )


def problem_texts(overviews: Overviews) -> list[Text]:
    """The sidecars' problems as sentences with time and runbook, and faults of answers.

    What several sidecars have in common, such as an outage of the store, is one sentence.
    """
    shared: dict[str, list[tuple[SidecarReply, Mapping[str, Any]]]] = {}
    texts = []
    for reply, overview in overviews:
        if overview is None:
            texts.append(f"{reply.name}: {reply.fault}")
        # A sidecar of an earlier version has none.
        for each in overview.get("problems", ()) if overview else ():
            shared.setdefault(each["text"], []).append((reply, each))
    for text, having in shared.items():
        first, problem = min(having, key=lambda each: datetime.fromisoformat(each[1]["since"]))
        names, runbook = ", ".join(reply.name for reply, _ in having), f"{first.url}{problem['runbook']}"
        texts.append(f"{names}: {text} Since {_local(problem['since'])}. Runbook: {runbook}")
    return [Text(printable(text), "red") for text in texts]


Row = tuple[str | Text, ...]


def _figures(reply: SidecarReply, overview: Mapping[str, Any] | None) -> Row:
    if overview is None:
        return (reply.name, *("-",) * 10, Text("no answer", "red"), Text("-"), Text("-"))
    latency, config = overview["latency_ms"], overview["config"]
    two, four, limited, five = (_share(overview["responses"][name]) for name in CLASSES)
    notes = ["edit refused"] if config["status"] != "ok" else []
    notes += ["restart needed"] if config.get("needs_restart") else []
    config_text = f"{config['hash']} {', '.join(notes)}".strip()
    return (
        reply.name,
        f"{overview['requests_per_s']:.1f}",
        *(two, four, limited, five),
        _ms(latency["total"]["p50"]),
        _ms(latency["total"]["p99"]),
        _ms(latency["application"]["p99"]),
        _ms(latency["store"]["p99"]),
        str(overview["in_flight"]),
        _word(overview["application"]["state"]),
        _word(overview["store"]["state"]),
        Text(config_text, "" if config["status"] == "ok" else "red"),
    )


def _total_row(totals: FleetTotals) -> Row:
    two, four, limited, five = (_share(totals.shares.get(name)) for name in CLASSES)
    figures = (f"{totals.requests_per_s:.1f}", two, four, limited, five, _ms(totals.p50_ms), _ms(totals.p99_ms))
    return ("total", *figures, "", "", str(totals.in_flight), "", "", "")


def _policies(found: Sequence[PolicyFigures], room: Room | None) -> Table:
    most = max(3, room.rows // 3) if room and room.rows is not None else len(found)
    more = [f"and {len(found) - most} more"] if len(found) > most else []
    shown = found[:most]
    names = [f"{each.name}{' (shadow)' if each.shadow else ''}{_REMOVED if each.removed else ''}" for each in shown]
    return fitted_table(
        room,
        FittedColumn(f"policy, {POLICIES_S} s", [*names, *more] or ["none"], cut=True),
        FittedColumn("limit", [_limit(each) for each in shown], spare=1),
        FittedColumn("matched", [_counted(each, each.matched) for each in shown], right=True),
        FittedColumn("refused", [_counted(each, each.refused) for each in shown], right=True),
        FittedColumn("share", [_share(each.refused_share) for each in shown], right=True),
        FittedColumn("shadow refused", [_counted(each, each.shadow_refused) for each in shown], right=True, spare=2),
        FittedColumn("matched by time", [sparkline(each.per_second, SPARKLINE_CHARS) for each in shown], spare=3),
    )


def _keys(timelines: Sequence[Mapping[str, Any]], figures: Sequence[PolicyFigures], room: Room | None) -> Table:
    present = {each.name for each in figures if not each.removed}
    entries = refused_keys(timelines)[:MOST_KEYS]
    return fitted_table(
        room,
        FittedColumn(
            "keys refused most, last 5 min", [printable(each["key"]) for each in entries] or ["none"], cut=True
        ),
        FittedColumn("policy", [_marked(each["policy"], present) for each in entries], cut=True),
        FittedColumn("refused", [_count(each) for each in entries], right=True),
    )


def _marked(policy: str, present: Collection[str]) -> str:
    """A policy with a mark if no sidecar that answered has it any more."""
    return policy if policy in present or not present else f"{policy}{_REMOVED}"


def _counted(figures: PolicyFigures, count: int) -> str:
    """Requests that a policy exempts are not counted by policy."""
    return "-" if figures.exempt else str(count)


def _count(entry: Mapping[str, Any]) -> str:
    least = entry["count"] - entry["error"]
    return f"{least}-{entry['count']}" if entry["error"] else str(least)


def _share(share: float | None) -> str:
    return "-" if share is None else percent(share)


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1000:.1f} s" if value >= 1000 else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _word(state: str) -> Text:
    return Text(state, _STYLES.get(state, "red"))


def _local(time: str) -> str:
    return f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M:%S}"


def _limit(figures: PolicyFigures) -> str:
    return figures.limit if figures.under_way is None else f"{figures.limit}, {figures.under_way} now"
