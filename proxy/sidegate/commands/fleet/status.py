"""`sidegate status`: all sidecars at once: ready, store, configuration, what is being decided."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from sidegate.commands.fleet.sidecars import Reply, ask_all
from sidegate.commands.fleet.traffic import WITHOUT_STORE, Traffic, not_closed, traffic_of
from sidegate.commands.output import printable, write_json, write_text

RECENT_S = 10
# Workers report once a second, and are told of within another.
SILENT_S = 5
_TITLES = (
    *("sidecar", "status", "app", "store", "configuration", "hash"),
    *("in flight", "decided/s", "refused/s"),
)


def run(options: argparse.Namespace) -> int:
    """Show them; returns 1 where one is not ready, its last edit was refused, or they do not decide alike."""
    health = ask_all(options.admin, "/readyz")
    timelines = ask_all(options.admin, f"/timeline?seconds={RECENT_S}")
    rows = [_row(*pair) for pair in zip(health, timelines, strict=True)]
    hashes = {each for row in rows for each in row["hashes"]}
    alike = len(hashes) <= 1
    if options.json:
        write_json({"alike": alike, "sidecars": rows})
    else:
        # What is wrong stands below, on lines of its own: beside all the columns it would have no room.
        why = [Text(printable(f"{row['sidecar']}: {'; '.join(row['reasons'])}")) for row in rows if row["reasons"]]
        write_text(_table(rows), *why)
        if not alike:
            write_text(Text("they do not decide alike: their configurations differ (see hash)", "red"))
    return 0 if alike and all(row["status"] == "ok" and row["config"] == "ok" for row in rows) else 1


def _row(health: Reply, timeline: Reply) -> dict[str, Any]:
    content = health.content
    parts = [content.get(name, {}) for name in ("app", "store", "config")]
    state: Mapping[str, Any] = timeline.content.get("state", {})
    config = state.get("config", {})
    traffic: Traffic = traffic_of([timeline.content])
    workers: Sequence[Mapping[str, Any]] = state.get("workers", ())
    sums = traffic.sums
    without = {outcome: round(sums[outcome] / RECENT_S, 1) for outcome in WITHOUT_STORE if sums[outcome]}
    reachable = bool(content.get("status"))
    return {
        "sidecar": health.name,
        "status": content.get("status", "unreachable") if isinstance(content.get("status"), str) else "unreachable",
        "app": parts[0].get("status"),
        "store": parts[1].get("status"),
        "config": parts[2].get("status"),
        "hash": config.get("hash"),
        "hashes": sorted({each["hash"] for each in (config, *workers) if each.get("hash")}),
        "loaded": parts[2].get("loaded"),
        "in_flight": state.get("in_flight"),
        "decided_per_s": round(traffic.total / RECENT_S, 1),
        "refused_per_s": round(traffic.refused / RECENT_S, 1),
        "without_store_per_s": without,
        "breakers": state.get("store", {}).get("breakers", []),
        "reasons": _reasons(parts, state, without, timeline.fault) if reachable else [health.fault],
    }


def _reasons(
    parts: Sequence[Mapping[str, Any]], state: Mapping[str, Any], without: Mapping[str, float], fault: str
) -> list[str]:
    """All that is not as it should be, in words."""
    config = state.get("config", {})
    found = [part["reason"] for part in parts if part.get("reason")]
    if not parts[1].get("reason"):  # else it says the same
        found += not_closed(state.get("store", {}))
    found += config.get("faults", ())
    if without:
        told = ", ".join(f"{rate}/s {outcome.replace('_', ' ')}" for outcome, rate in without.items())
        found.append(f"decided without the store: {told}")
    found += _about_workers(state.get("workers", ()), config.get("hash"))
    return [*found, fault] if fault else found


def _about_workers(workers: Sequence[Mapping[str, Any]], usual: str | None) -> list[str]:
    """What is odd about single workers of a sidecar."""
    found = []
    for each in workers:
        if each["heard_s"] is None:
            found.append(f"worker {each['worker']} is not there")
            continue
        if each["heard_s"] > SILENT_S:
            found.append(f"worker {each['worker']} was last heard {each['heard_s']:.0f} s ago")
        if each["hash"] != usual:
            found.append(f"worker {each['worker']} has another configuration: {each['hash']}")
    return found


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for title in _TITLES:
        table.add_column(title, overflow="fold")
    for row in rows:
        loaded = f"{row['config']}, read {row['loaded']}" if row["config"] else "-"
        table.add_row(
            row["sidecar"],
            _word(row["status"]),
            _word(row["app"]),
            _word(row["store"]),
            Text(loaded, "" if row["config"] == "ok" else "red"),
            row["hash"] or "-",
            *(str("-" if row[name] is None else row[name]) for name in ("in_flight", "decided_per_s", "refused_per_s")),
        )
    return table


def _word(word: str | None) -> Text:
    return Text(word or "-", {"ok": "green", "degraded": "yellow", None: "dim"}.get(word, "red"))
