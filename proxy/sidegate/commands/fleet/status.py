"""`sidegate status`: figures, states and problems of all sidecars."""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from sidegate.commands.fleet.fitted_table import scrolling_room
from sidegate.commands.fleet.sidecars import SidecarReply, ask_all
from sidegate.commands.fleet.top_screen import problem_texts, sidecar_table
from sidegate.commands.fleet.traffic import FIGURES_S, totals_of_overviews
from sidegate.commands.output import printable, write_json
from sidegate.commands.rich_output import write_text


def status(options: argparse.Namespace) -> int:
    """Show them. Returns 1 if a sidecar has a problem or does not answer, or if their configurations differ."""
    replies = ask_all(options.admin, "/timeline?seconds=1")
    overviews = [(each, each.content["state"]["overview"] if not each.fault else None) for each in replies]
    states: list[Mapping[str, Any]] = [each.content["state"] for each in replies if not each.fault]
    alike = len(_hashes(states)) <= 1
    texts = problem_texts(overviews)
    if not alike:
        texts.append(Text("The sidecars have different configurations and do not decide alike (see hashes).", "red"))
        texts += [Text(printable(f"{reply.name}: {line}")) for reply in replies for line in _hash_lines(reply)]
    if options.json:
        write_json(_document(overviews, states, alike))
    else:
        used = [Text(printable(f"places in use: {_listed(places)}"))] if (places := _places(states)) else []
        write_text(sidecar_table(overviews, scrolling_room()), *used, *texts)
    return 1 if texts else 0


def _places(states: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Requests under way by policy with `in_flight`, where there are any."""
    return sum((Counter(state.get("places", {})) for state in states), Counter())


def _listed(places: Counter[str]) -> str:
    return ", ".join(f"{policy} {count}" for policy, count in places.most_common())


def _document(
    overviews: Sequence[tuple[SidecarReply, Mapping[str, Any] | None]],
    states: Sequence[Mapping[str, Any]],
    alike: bool,
) -> dict[str, object]:
    """The same for programs. `totals` cover the sidecars that answered."""
    totals = totals_of_overviews([state["overview"] for state in states])
    return {
        "window_s": FIGURES_S,
        "alike": alike,
        "totals": {
            "requests_per_s": totals.requests_per_s,
            "responses": totals.shares,
            "in_flight": totals.in_flight,
            "places": _places(states),
            "slowest_ms": {"p50": totals.p50_ms, "p99": totals.p99_ms},
        },
        "sidecars": [
            {
                "sidecar": reply.name,
                "fault": reply.fault or None,
                "overview": overview,
                "workers": reply.content["state"].get("workers", []) if overview else [],
            }
            for reply, overview in overviews
        ],
    }


def _hashes(states: Sequence[Mapping[str, Any]]) -> set[str]:
    """Hashes of the configurations of all sidecars and of their workers."""
    return {
        each["hash"] for state in states for each in (state["config"], *state.get("workers", ())) if each.get("hash")
    }


def _hash_lines(reply: SidecarReply) -> list[str]:
    state = reply.content.get("state")
    if state is None:
        return []
    odd = [each for each in state.get("workers", ()) if each.get("hash") not in (None, state["config"]["hash"])]
    own = [f"configuration {state['config']['hash']}, read {state['config']['loaded']}"]
    return own + [f"worker {each['worker']} has configuration {each['hash']}" for each in odd]
