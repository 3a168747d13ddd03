"""`sidegate top`: what is limited, live in a terminal, over all sidecars."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from proxy.commands.output import complain, printable, write_json, write_text
from proxy.commands.sidecars import Reply, ask_all
from proxy.commands.traffic import ALWAYS_TOLD, OUTCOMES, Traffic, not_closed, sparkline, traffic_of

SHOWN_S = 60
MOST_KEYS = 10
SPARKLINE_CHARS = 30


def run(options: argparse.Namespace) -> int:
    """Show it until interrupted, or once; returns 1 where no sidecar answers."""
    if options.once or options.json:
        replies = ask_all(options.admin, f"/timeline?seconds={SHOWN_S}")
        if options.json:
            write_json(_as_json(replies))
        else:
            write_text(_screen(replies))
        for reply in replies:
            if reply.fault:
                complain(f"{reply.name}: {reply.fault}")
        return 0 if any(not reply.fault for reply in replies) else 1
    if not sys.stdout.isatty():
        complain("top needs a terminal; use --once or --json")
        return 2
    _follow(options)
    return 0


def _follow(options: argparse.Namespace) -> None:
    console = Console(markup=False, highlight=False, emoji=False)
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(_screen(ask_all(options.admin, f"/timeline?seconds={SHOWN_S}")), refresh=True)
                time.sleep(options.interval)
    except KeyboardInterrupt:
        return


def _screen(replies: Sequence[Reply]) -> RenderableType:
    traffic = traffic_of([reply.content for reply in replies])
    return Group(_sidecars(replies), "", _policies(traffic), "", _keys(traffic))


def _sidecars(replies: Sequence[Reply]) -> Table:
    table = _table("sidecar", "store", "round trip", "in flight", "configuration")
    for reply in replies:
        if reply.fault:
            table.add_row(reply.name, Text(printable(reply.fault), "red"))
            continue
        state, seconds = reply.content["state"], reply.content["seconds"]
        times = [second["store_ms"] for second in seconds[-10:] if second["store_ms"] is not None]
        store, config = state["store"], state["config"]
        table.add_row(
            reply.name,
            _store(store),
            f"{sum(times) / len(times):.2f} ms" if times else "-",
            str(state["in_flight"]),
            Text(f"{config['hash']} {config['status']}", "" if config["status"] == "ok" else "red"),
        )
    return table


def _store(store: Mapping[str, Any]) -> Text:
    open_ones = not_closed(store)
    if not store["up"]:
        return Text(printable("; ".join([f"down: {store['reason']}", *open_ones])), "red")
    return Text(printable("; ".join(open_ones)), "red") if open_ones else Text("up", "green")


def _policies(traffic: Traffic) -> Table:
    """A column for each outcome that occurred."""
    shown = [outcome for outcome in OUTCOMES if outcome in ALWAYS_TOLD or traffic.sums[outcome]]
    table = _table("policy", *(f"{name.replace('_', ' ')}/s" for name in shown), "last minute")
    for name in traffic.policies():
        rates = [_rate(traffic.outcomes[name][outcome], traffic) for outcome in shown]
        table.add_row(name, *rates, sparkline(traffic.by_second[name], SPARKLINE_CHARS))
    if not traffic.outcomes:
        table.add_row("nothing was decided")
    return table


def _keys(traffic: Traffic) -> Table:
    table = _table("refused most, last 5 minutes", "policy", "refused")
    for entry in traffic.refused_keys[:MOST_KEYS]:
        least = entry["count"] - entry["error"]
        count = f"{least}-{entry['count']}" if entry["error"] else str(least)
        table.add_row(printable(entry["key"]), entry["policy"], count)
    if not traffic.refused_keys:
        table.add_row("none")
    return table


def _table(*titles: str) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for title in titles:
        right = title.endswith("/s") or title in ("refused", "in flight", "round trip")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    return table


def _rate(count: int, traffic: Traffic) -> str:
    return f"{count / max(1, traffic.seconds):.1f}"


def _as_json(replies: Sequence[Reply]) -> dict[str, object]:
    traffic = traffic_of([reply.content for reply in replies])
    return {
        "seconds": traffic.seconds,
        "policies": {name: dict(traffic.outcomes[name]) for name in traffic.policies()},
        "refused": traffic.refused_keys[:MOST_KEYS],
        "sidecars": {reply.name: reply.fault or reply.content["state"] for reply in replies},
    }
