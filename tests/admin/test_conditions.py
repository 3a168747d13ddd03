"""When application and store count as slow, failing or down, and how shares are written."""

from collections import Counter
from typing import Any

import pytest
from sidegate.admin.application_probe import ApplicationFault
from sidegate.admin.conditions import ConditionHistory, application_condition, store_condition
from sidegate.telemetry.histogram import DURATIONS_S
from sidegate.telemetry.percent import percent
from sidegate.telemetry.totals import Totals


def window(fast: int = 0, slow: int = 0, *, application_errors: int = 0, **errors: int) -> Totals:
    """Forwarded requests that took 1 ms and 10 s."""
    counts = [0] * (len(DURATIONS_S) + 1)
    counts[DURATIONS_S.index(0.001)], counts[DURATIONS_S.index(10.0)] = fast, slow
    return Totals(errors=Counter(errors), application_errors=application_errors, application_counts=tuple(counts))


@pytest.mark.parametrize(
    ("totals", "fault", "waiting", "state", "part"),
    [
        (window(), None, 0, "up", ""),
        (window(fast=100), None, 0, "up", ""),
        (window(fast=100), ApplicationFault("127.0.0.1:9000: Connection refused"), 0, "down", "Connection refused"),
        (window(fast=100), ApplicationFault("GET /x was answered 503", answers=True), 0, "failing", "answered 503"),
        (window(fast=100, application_errors=4), None, 0, "up", ""),
        (window(fast=100, application_errors=5), None, 0, "failing", "5.0 % of its requests failed: 5 answered 5xx"),
        (window(fast=10, upstream_timeout=1, upstream_broken=1), None, 0, "failing", "1 upstream_broken, 1 upstream_t"),
        (window(fast=100, bad_request=50, store_unavailable=50), None, 0, "up", ""),
        (window(fast=49, slow=51), None, 0, "slow", "half of its answers take"),
        (window(fast=51, slow=49), None, 0, "up", ""),
        (window(fast=100), None, 3, "slow", "3 requests wait"),
        (window(fast=100, upstream_busy=1), None, 0, "slow", "wait for a connection"),
    ],
)
def test_the_application_is_judged_by_its_requests(
    totals: Totals, fault: ApplicationFault | None, waiting: int, state: str, part: str
) -> None:
    found = application_condition(totals, fault, waiting)
    assert found.state == state
    assert part in found.reason


@pytest.mark.parametrize(
    ("up", "breakers", "state", "reason"),
    [
        (True, [("closed", None)], "up", ""),
        (False, [("closed", None)], "down", "connect: Connection refused"),
        (True, [("open", "timeout")], "open", "breaker of n0 open: timeout"),
        (True, [("closed", None), ("probing", "oom")], "open", "breaker of n1 probing: oom"),
    ],
)
def test_the_store_is_judged_by_connection_and_breakers(
    up: bool, breakers: list[tuple[str, str | None]], state: str, reason: str
) -> None:
    entries = [{"node": f"n{n}", "state": each, "reason": why} for n, (each, why) in enumerate(breakers)]
    store: dict[str, Any] = {"up": up, "reason": None if up else "connect", "breakers": entries}
    store["fault"] = None if up else "Connection refused"
    assert store_condition(store) == (state, reason)


def test_since_is_the_time_of_the_last_change_of_state() -> None:
    history = ConditionHistory("start")
    down = application_condition(window(), ApplicationFault("refused"), 0)
    assert [history.update(down, "1"), history.update(down, "2"), history.since] == [True, False, "1"]
    assert [history.update(application_condition(window(), None, 0), "3"), history.since] == [True, "3"]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        *((0.0, "0 %"), (0.0001, "0.1 %"), (0.034, "3.4 %"), (0.5, "50 %"), (0.625, "63 %")),
        *((0.994, "99.4 %"), (0.9996, "99.9 %"), (1.0, "100 %")),
    ],
)
def test_a_share_is_0_or_100_percent_only_if_it_is_exactly_that(share: float, text: str) -> None:
    assert percent(share) == text
