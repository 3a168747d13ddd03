"""The states of the breaker, with a clock and random numbers set by the test."""

from itertools import pairwise

import pytest
from sidegate.store.breaker import COUNTED_APART_S, FAILURES_TO_OPEN, LONGEST_PAUSE_S, Breaker, BreakerState


def opened(breaker: Breaker, now_s: float = 0.0) -> float:
    """Fail it until it opens; returns when that was."""
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.closed
        breaker.failed("timeout", now_s, now_s + 0.05)
        now_s += 0.05 + COUNTED_APART_S
    assert not breaker.closed
    return now_s - COUNTED_APART_S


def test_the_breaker_opens_after_three_failures_in_a_row_and_reports_it_once() -> None:
    breaker = Breaker()
    opened = [breaker.failed("timeout", second, second + 0.05) for second in range(FAILURES_TO_OPEN + 2)]
    assert opened == [False] * (FAILURES_TO_OPEN - 1) + [True, False, False]
    assert breaker.state is BreakerState.OPEN
    assert breaker.reason == "timeout"


def test_an_answer_resets_the_count_of_failures() -> None:
    breaker = Breaker()
    for second in range(50):
        for failure in range(FAILURES_TO_OPEN - 1):
            assert not breaker.failed("timeout", second + failure / 10, second + failure / 10 + 0.05)
        breaker.answered()
    assert breaker.closed


def test_failures_of_one_broken_connection_count_once() -> None:
    breaker = Breaker()
    for asked_ms in range(50):
        assert not breaker.failed("connection_lost", asked_ms / 1000, 0.05)
    assert breaker.closed
    assert not breaker.failed("connect", 0.051, 0.051)  # before the connection was replaced: still the same fault
    assert not breaker.failed("connect", 0.07, 0.07)
    assert breaker.failed("connect", 0.09, 0.09)


def test_probes_come_one_at_a_time() -> None:
    breaker = Breaker()
    assert not breaker.probe()
    opened(breaker)
    assert breaker.probe()
    assert not breaker.probe()
    breaker.probe_failed("oom")
    assert (breaker.state, breaker.reason) == (BreakerState.OPEN, "oom")
    assert breaker.probe()


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_pauses_grow_to_a_bound_and_each_is_drawn_between_half_and_all(chance: float) -> None:
    breaker = Breaker(lambda: chance)
    opened(breaker)
    pauses = []
    for _ in range(12):
        pauses.append(breaker.pause_s())
        breaker.probe()
        breaker.probe_failed("timeout")
    assert all(before <= after for before, after in pairwise(pauses))
    assert pauses[0] < 0.1
    assert pauses[-1] == LONGEST_PAUSE_S * (0.5 + 0.5 * chance)


def test_sidecars_that_lost_a_store_together_come_back_apart() -> None:
    breakers = [Breaker() for _ in range(300)]
    for breaker in breakers:
        opened(breaker)
        for _ in range(10):
            breaker.probe()
            breaker.probe_failed("timeout")
    pauses = sorted(breaker.pause_s() for breaker in breakers)
    assert pauses[-1] - pauses[0] > LONGEST_PAUSE_S / 4
    assert len(set(pauses)) > 290


def test_an_answered_probe_closes_the_breaker_and_returns_how_long_it_was_open() -> None:
    breaker = Breaker(lambda: 1.0)
    since_s = opened(breaker)
    for _ in range(6):
        breaker.probe()
        breaker.probe_failed("timeout")
    breaker.probe()
    assert breaker.probe_answered(since_s + 7) == pytest.approx(7)
    assert breaker.closed
    opened(breaker, 100)
    assert breaker.pause_s() < 0.1, "the next outage begins with a short pause again"


def test_late_failures_of_a_known_outage_change_nothing() -> None:
    breaker = Breaker()
    now_s = opened(breaker)
    breaker.answered()  # asked before it opened
    assert not breaker.failed("timeout", now_s + 1, now_s + 1.05)
    assert breaker.state is BreakerState.OPEN
