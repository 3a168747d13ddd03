"""Judges application and store from the figures of the last seconds. Pure but for the times it is given.

application   up       answers
              slow     half of its answers take SLOW_S or longer, or requests wait for a connection to it
              failing  FAILING_SHARE of the forwarded requests or more ended with 5xx or a broken connection, or
                       `upstream.health.path` is answered with an error
              down     accepts no connections, or does not answer `upstream.health.path`
store         up       connected, all breakers closed
              open     connected, but a breaker keeps requests from it
              down     not connected
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sidegate.admin.application_probe import ApplicationFault
from sidegate.telemetry.histogram import quantile
from sidegate.telemetry.percent import percent
from sidegate.telemetry.totals import Totals

SLOW_S = 1.0
# As in the alert SidegateUpstreamFails.
FAILING_SHARE = 0.05
_OVERLOAD = ("upstream_busy", "upstream_queue_full")


class Condition(NamedTuple):
    """State and reason of one part; the reason is empty while the part is up."""

    state: str
    reason: str = ""


class ConditionHistory:
    """The present condition of one part, and since when its state has held (ISO 8601, UTC)."""

    def __init__(self, now: str) -> None:
        self.condition = Condition("up")
        self.since = now

    def update(self, condition: Condition, now: str) -> bool:
        """Take the condition of this second. Returns whether the state changed."""
        changed = condition.state != self.condition.state
        self.condition = condition
        if changed:
            self.since = now
        return changed


def application_condition(window: Totals, fault: ApplicationFault | None, waiting: int) -> Condition:
    """The application's condition. `fault`: of the last probe; `waiting`: requests in its queue."""
    if fault is not None:
        return Condition("failing" if fault.answers else "down", fault.text)
    forwarded = max(sum(window.application_counts), 1)
    broken = {reason: count for reason, count in window.errors.items() if reason.startswith("upstream_")}
    failed = window.application_errors + sum(broken.values())
    if failed / forwarded >= FAILING_SHARE:
        parts = [f"{window.application_errors} answered 5xx"] if window.application_errors else []
        parts += [f"{count} {reason}" for reason, count in sorted(broken.items())]
        return Condition("failing", f"{percent(failed / forwarded)} of its requests failed: {', '.join(parts)}")
    if waiting or any(window.errors[reason] for reason in _OVERLOAD):
        return Condition("slow", f"{waiting} requests wait for a connection to it")
    median_s = quantile(window.application_counts, 0.5)
    if median_s is not None and median_s >= SLOW_S:
        return Condition("slow", f"half of its answers take {median_s:.1f} s or longer")
    return Condition("up")


def store_condition(store: Mapping[str, Any]) -> Condition:
    """The store's condition, from its state (store.store_state)."""
    if not store["up"]:
        return Condition("down", ": ".join(filter(None, (store["reason"], store["fault"]))))
    waiting = breaker_texts(store["breakers"])
    return Condition("open", "; ".join(waiting)) if waiting else Condition("up")


def breaker_texts(breakers: Sequence[Mapping[str, Any]]) -> list[str]:
    """One text for each breaker that is not closed."""
    return [
        f"breaker{' of ' + each['node'] if each['node'] else ''} {each['state']}: {each['reason']}"
        for each in breakers
        if each["state"] != "closed"
    ]
