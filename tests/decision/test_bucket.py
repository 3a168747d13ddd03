"""What a bucket promises, by tables with a clock moved by hand, and over random histories."""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidegate.decision.bucket import EXACT, MAX_BURST, MAX_PERIOD_US, Bucket, Charge, Level, Limit, Rate, settle
from sidegate.decision.charging import decide, passed

SECOND = 1_000_000
HOUR = 3600 * SECOND
START = 1_700_000_000 * SECOND
PER_SECOND = Rate(1, SECOND)


def limit(rate: Rate = PER_SECOND, burst: int = 5, initial: int | None = None, idle_ttl_ms: int = 1) -> Limit:
    return Limit(rate, burst, burst if initial is None else initial, idle_ttl_ms)


def wait_of(charges: Sequence[Charge], levels: Sequence[Level]) -> int:
    """Until every live bucket has its cost."""
    live = [(charge, level) for charge, level in zip(charges, levels, strict=True) if not charge.shadow]
    return max(charge.limit.wait_us(charge.cost - level.tokens, level.age_us) for charge, level in live)


class Step(NamedTuple):
    """At `now` a request of `cost` is allowed or not, and leaves `remaining`; a refused one may retry after `retry`."""

    now: int
    cost: int
    allowed: bool
    remaining: int
    retry: int = 0


def outcomes(bucket_limit: Limit, asked: Sequence[tuple[int, int]]) -> list[Step]:
    """What becomes of (now, cost) after (now, cost), all of one bucket that the store does not know at first."""
    stored: dict[str, Bucket] = {}
    steps = []
    for now, cost in asked:
        charges = [Charge("k", bucket_limit, cost)]
        (levels,) = decide([charges], stored, START + now)
        allowed = passed(charges, levels)
        steps.append(Step(now, cost, allowed, levels[0].tokens, 0 if allowed else wait_of(charges, levels)))
    return steps


def check(bucket_limit: Limit, steps: list[Step]) -> None:
    assert outcomes(bucket_limit, [(step.now, step.cost) for step in steps]) == steps


# -- a bucket holds `burst` at most, and grows by its rate --------------------------------------------------------------


def test_a_burst_passes_at_once_and_the_next_waits_for_a_whole_token() -> None:
    check(
        limit(burst=3),
        [
            Step(0, 1, True, 2),
            Step(0, 1, True, 1),
            Step(0, 1, True, 0),
            Step(0, 1, False, 0, SECOND),
            Step(400_000, 1, False, 0, 600_000),
            Step(999_999, 1, False, 0, 1),
            Step(SECOND, 1, True, 0),
            Step(SECOND, 1, False, 0, SECOND),
        ],
    )


def test_idling_fills_a_bucket_to_its_burst_and_no_further() -> None:
    check(
        limit(burst=3),
        [Step(0, 3, True, 0), Step(2 * SECOND, 0, True, 2), Step(3 * SECOND, 0, True, 3), Step(HOUR, 3, True, 0)],
    )


def test_a_full_bucket_keeps_no_fraction_for_later() -> None:
    check(
        limit(burst=2),
        [Step(0, 2, True, 0), Step(2_900_000, 1, True, 1), Step(3_800_000, 0, True, 1), Step(3_900_000, 0, True, 2)],
    )


def test_the_fraction_of_a_token_survives_a_charge() -> None:
    check(
        limit(burst=2),
        [
            Step(0, 2, True, 0),
            Step(1_500_000, 1, True, 0),
            Step(1_999_999, 1, False, 0, 1),
            Step(2 * SECOND, 1, True, 0),
        ],
    )


def test_a_rate_that_is_no_whole_number_of_microseconds_loses_less_than_one_of_them_a_charge() -> None:
    check(
        limit(Rate(3, SECOND), burst=1),
        [
            Step(0, 1, True, 0),
            Step(333_333, 1, False, 0, 1),
            Step(333_334, 1, True, 0),  # two thirds of a microsecond's refill go with the rounding
            Step(666_667, 1, False, 0, 1),
            Step(666_668, 1, True, 0),
        ],
    )


def test_ten_a_minute_with_a_burst_of_fifteen_starts_with_ten() -> None:
    demo = limit(Rate(1, 6 * SECOND), burst=15, initial=10)
    check(demo, [Step(0, 10, True, 0), Step(0, 1, False, 0, 6 * SECOND), Step(90 * SECOND, 15, True, 0)])


def test_a_new_bucket_grows_from_initial_only_after_its_first_charge() -> None:
    check(
        limit(burst=5, initial=2),
        [Step(0, 0, True, 2), Step(HOUR, 0, True, 2), Step(HOUR, 1, True, 1), Step(HOUR + 2 * SECOND, 0, True, 3)],
    )


# -- a cost may be more than one token, or none -----------------------------------------------------------------------


def test_a_cost_waits_until_all_its_tokens_have_grown() -> None:
    check(
        limit(burst=5),
        [
            Step(0, 3, True, 2),
            Step(0, 3, False, 2, SECOND),
            Step(0, 2, True, 0),
            Step(500_000, 4, False, 0, 3_500_000),
            Step(3_999_999, 4, False, 3, 1),
            Step(4 * SECOND, 4, True, 0),
        ],
    )


def test_a_refused_cost_leaves_the_tokens_to_smaller_ones() -> None:
    check(limit(burst=3), [Step(0, 2, True, 1), Step(0, 2, False, 1, SECOND), Step(0, 1, True, 0)])


def test_a_cost_of_nothing_passes_an_empty_bucket_and_is_not_written() -> None:
    stored: dict[str, Bucket] = {}
    for _ in range(3):
        assert decide([[Charge("k", limit(), 0)]], stored, START) == [(Level(5, 0, True),)]
    assert stored == {}


# -- the store's clock may step ---------------------------------------------------------------------------------------


def test_a_clock_that_steps_back_by_less_than_a_second_neither_refills_nor_takes() -> None:
    check(
        limit(burst=2),
        [
            Step(10 * SECOND, 2, True, 0),
            Step(9 * SECOND, 1, False, 0, SECOND),
            Step(10 * SECOND, 1, False, 0, SECOND),
            Step(11 * SECOND, 1, True, 0),
            Step(10 * SECOND, 1, False, 0, SECOND),
            Step(11 * SECOND + 999_999, 1, False, 0, 1),
            Step(12 * SECOND, 1, True, 0),
        ],
    )


@pytest.mark.parametrize("step_s", [2, 20, 300, 3600])
def test_a_bucket_grows_from_the_first_request_after_a_longer_step_back(step_s: int) -> None:
    later = 10_000 * SECOND
    check(
        limit(burst=2),
        [
            Step(later, 2, True, 0),
            Step(later - step_s * SECOND, 1, False, 0, SECOND),
            Step(later - step_s * SECOND + 999_999, 1, False, 0, 1),
            Step(later - step_s * SECOND + SECOND, 1, True, 0),
        ],
    )


def test_a_step_forward_credits_its_length_and_at_most_a_burst() -> None:
    check(
        limit(burst=2),
        [Step(0, 2, True, 0), Step(3600 * SECOND, 2, True, 0), Step(3600 * SECOND, 1, False, 0, SECOND)],
    )


def test_a_jump_ahead_fills_a_bucket_once() -> None:
    year = 366 * 24 * HOUR
    check(limit(burst=2), [Step(0, 2, True, 0), Step(year, 2, True, 0), Step(year, 1, False, 0, SECOND)])


# -- an edited limit keeps what a bucket held -------------------------------------------------------------------------

SLOW, FAST = limit(Rate(1, HOUR), burst=10), limit(Rate(10, SECOND), burst=10)


def edited(before: Limit, after: Limit, drained: int, elapsed: int) -> Bucket:
    """A bucket of `before`, `drained` of its tokens at START, as `after` finds it `elapsed` later."""
    return settle(Bucket(before.burst - drained, START, before.rate), after, START + elapsed)


def test_time_before_the_first_contact_is_credited_at_the_old_rate() -> None:
    assert edited(SLOW, FAST, drained=10, elapsed=59 * 60 * SECOND).tokens == 0
    assert edited(FAST, SLOW, drained=10, elapsed=SECOND // 2).tokens == 5


def test_the_fraction_of_a_token_is_carried_over() -> None:
    found = edited(SLOW, FAST, drained=10, elapsed=HOUR // 4)
    assert found == Bucket(0, START + HOUR // 4 - 24_999, FAST.rate)  # a quarter of 100 ms, less one unit


def test_a_lower_burst_takes_what_no_longer_fits() -> None:
    lower = limit(PER_SECOND, burst=4)
    assert edited(limit(burst=10), lower, drained=1, elapsed=0) == Bucket(4, START, PER_SECOND)
    assert edited(limit(burst=10), lower, drained=9, elapsed=0) == Bucket(1, START, PER_SECOND)


def test_a_higher_burst_gives_room_and_no_tokens() -> None:
    assert edited(limit(burst=5), limit(burst=100), drained=5, elapsed=0) == Bucket(0, START, PER_SECOND)
    assert edited(limit(burst=5), limit(burst=100), drained=0, elapsed=SECOND).tokens == 6


def test_a_refusal_under_a_new_rate_writes_the_bucket_as_it_stands_under_it() -> None:
    stored = {"k": Bucket(0, START, SLOW.rate)}
    decide([[Charge("k", FAST, 1)]], stored, START + HOUR // 4)
    assert stored == {"k": Bucket(0, START + HOUR // 4 - 24_999, FAST.rate)}


def test_a_look_under_a_new_rate_writes_nothing() -> None:
    stored = {"k": Bucket(0, START, SLOW.rate)}
    decide([[Charge("k", FAST, 0)]], stored, START + HOUR // 4)
    assert stored == {"k": Bucket(0, START, SLOW.rate)}


# -- several buckets: all are charged or none -------------------------------------------------------------------------

WIDE, NARROW = limit(burst=10), limit(burst=1)


def test_a_request_that_one_bucket_refuses_is_charged_on_none() -> None:
    stored: dict[str, Bucket] = {}
    request = [Charge("wide", WIDE, 1), Charge("narrow", NARROW, 1)]
    first, second = decide([request, request], stored, START)
    assert first == (Level(9, 0, True), Level(0, 0, True))
    assert second == (Level(9, 0, True), Level(0, 0, False))
    assert stored == {"wide": Bucket(9, START, PER_SECOND), "narrow": Bucket(0, START, PER_SECOND)}


def test_the_order_of_a_requests_buckets_changes_nothing() -> None:
    one: dict[str, Bucket] = {}
    other: dict[str, Bucket] = {}
    request = [Charge("wide", WIDE, 1), Charge("narrow", NARROW, 1)]
    decide([request] * 3, one, START)
    decide([request[::-1]] * 3, other, START)
    assert one == other


def test_requests_decided_together_are_served_in_their_order() -> None:
    requests = [[Charge("k", limit(burst=3), cost)] for cost in (2, 2, 1, 1)]
    decided = decide(requests, {}, START)
    assert [level.enough for (level,) in decided] == [True, False, True, False]


# -- a shadow is charged beside the others and never stands in their way ----------------------------------------------


def test_an_empty_shadow_lets_the_request_pass_and_the_others_be_charged() -> None:
    stored: dict[str, Bucket] = {}
    request = [Charge("live", WIDE, 1), Charge("trial", NARROW, 1, shadow=True)]
    first, second = decide([request, request], stored, START)
    assert passed(request, first)
    assert passed(request, second)
    assert second == (Level(8, 0, True), Level(0, 0, False))


def test_a_shadow_is_not_charged_when_a_live_bucket_refuses() -> None:
    stored: dict[str, Bucket] = {}
    request = [Charge("trial", WIDE, 1, shadow=True), Charge("live", NARROW, 1)]
    decide([request] * 3, stored, START)
    assert stored["trial"].tokens == 9


# -- a bucket lives in the store until it is full ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "burst", "idle_ttl_ms", "expected_ms"),
    [
        (PER_SECOND, 50, 1, 50_001),  # Traefik: 2 s
        (Rate(1, 10 * SECOND), 1, 1, 10_001),  # APISIX: 1 s
        (Rate(1, HOUR), 24, 1, 24 * 3_600_000 + 1),
        (Rate(10, SECOND), 4, 1, 401),  # throttled-py: 0 s
        (Rate(MAX_BURST, 1), 1, 1, 2),
        (Rate(3, SECOND), 1, 1, 335),
        (PER_SECOND, 1, 3_600_000, 3_600_000),
        (Rate(1, HOUR), 2, 3_600_000, 7_200_001),
    ],
)
def test_expiry_is_the_idle_ttl_but_never_shorter_than_the_time_to_full(
    rate: Rate, burst: int, idle_ttl_ms: int, expected_ms: int
) -> None:
    assert limit(rate, burst, idle_ttl_ms=idle_ttl_ms).ttl_ms == expected_ms


@pytest.mark.parametrize(
    ("tokens", "age", "wait"),
    [(0, 0, 0), (-3, 0, 0), (1, 0, 333_334), (1, 333_333, 1), (1, 333_334, 0), (3, 0, SECOND), (3, 1, 999_999)],
)
def test_a_wait_is_rounded_up_to_the_microsecond(tokens: int, age: int, wait: int) -> None:
    assert limit(Rate(3, SECOND)).wait_us(tokens, age) == wait


# -- over any history -------------------------------------------------------------------------------------------------

bursts = st.integers(1, 40) | st.integers(1, 1_000_000)
periods = st.integers(1, 50) | st.integers(1, 10 * SECOND) | st.integers(1, MAX_PERIOD_US)
rates = st.builds(Rate.fitting, st.integers(1, 1000), periods, st.just(1))


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    burst, rate = draw(bursts), draw(rates)
    if burst * rate.period_us > EXACT:
        burst = EXACT // rate.period_us
    return Limit(rate, burst, draw(st.integers(0, burst)), 1)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Limit, list[tuple[int, int]]]:
    """A limit, and requests (now, cost) of one bucket, at moments close to where its tokens come."""
    bucket_limit = draw(limits())
    token_us = bucket_limit.wait_us(1, 0)
    pauses = st.sampled_from([0, 1, token_us - 1, token_us, 2 * token_us + 1, bucket_limit.fill_us]) | st.integers(
        0, 3 * token_us
    )
    costs = st.integers(0, 3) | st.integers(0, bucket_limit.burst + 1)
    now, asked = START, []
    for pause, cost in draw(st.lists(st.tuples(pauses, costs), min_size=1, max_size=30)):
        now += pause
        asked.append((now, cost))
    return bucket_limit, asked


def admitted(bucket_limit: Limit, asked: list[tuple[int, int]]) -> list[tuple[int, int]]:
    steps = outcomes(bucket_limit, asked)
    return [(step.now, step.cost) for step in steps if step.allowed]


@pytest.mark.slow
@given(histories())
def test_no_interval_admits_more_than_burst_and_what_grows_in_it(history: tuple[Limit, list[tuple[int, int]]]) -> None:
    bucket_limit, asked = history
    rate = Fraction(bucket_limit.rate.tokens, bucket_limit.rate.period_us)
    passes = admitted(bucket_limit, asked)
    for first in range(len(passes)):
        spent = 0
        for now, cost in passes[first:]:
            spent += cost
            assert spent <= bucket_limit.burst + rate * (now - passes[first][0])


@pytest.mark.slow
@given(histories(), st.data())
def test_no_interval_admits_more_though_the_clock_steps_back(
    history: tuple[Limit, list[tuple[int, int]]], data: st.DataObject
) -> None:
    bucket_limit, asked = history
    steps = st.integers(0, bucket_limit.fill_us)
    asked = [(now - data.draw(steps), cost) for now, cost in asked]
    rate = Fraction(bucket_limit.rate.tokens, bucket_limit.rate.period_us)
    # The bound counts every advance of the clock: after a step back that is too long to wait out, the way forward again
    # grows tokens too.
    passed_us, spent, before = 0, 0, 0
    for step in outcomes(bucket_limit, asked):
        passed_us += max(0, step.now - before) if spent else 0
        before = step.now
        spent += step.cost if step.allowed else 0
        assert spent <= bucket_limit.burst + rate * passed_us


@pytest.mark.slow
@given(histories())
def test_a_refusal_means_that_an_ideal_bucket_had_not_enough_either(
    history: tuple[Limit, list[tuple[int, int]]],
) -> None:
    """Save for the rounding: each charge costs the caller less than one microsecond's refill."""
    bucket_limit, asked = history
    rate = Fraction(bucket_limit.rate.tokens, bucket_limit.rate.period_us)
    ideal: Fraction | None = None
    before, rounded = 0, Fraction(0)
    for step in outcomes(bucket_limit, asked):
        if ideal is not None:
            ideal = min(Fraction(bucket_limit.burst), ideal + rate * (step.now - before))
        before = step.now
        level = Fraction(bucket_limit.initial) if ideal is None else ideal
        assert step.allowed or level - rounded < step.cost
        if step.allowed and step.cost:
            ideal, rounded = level - step.cost, rounded + rate


@pytest.mark.slow
@given(histories())
def test_a_retry_succeeds_at_the_moment_named_and_not_before(history: tuple[Limit, list[tuple[int, int]]]) -> None:
    bucket_limit, asked = history
    stored: dict[str, Bucket] = {}
    for now, cost in asked:
        request = [Charge("k", bucket_limit, cost)]
        (levels,) = decide([request], stored, now)
        wait = wait_of(request, levels)
        if "k" in stored and not passed(request, levels) and cost <= bucket_limit.burst:
            early = now + wait - (1 if bucket_limit.rate.tokens == 1 else 2)  # rounded up: by a microsecond at most
            assert early < now or not passed(request, decide([request], dict(stored), early)[0])
            assert passed(request, decide([request], dict(stored), now + wait)[0])


@pytest.mark.slow
@given(histories())
def test_a_bucket_is_full_by_the_time_it_expires(history: tuple[Limit, list[tuple[int, int]]]) -> None:
    bucket_limit, asked = history
    stored: dict[str, Bucket] = {}
    for now, cost in asked:
        decide([[Charge("k", bucket_limit, cost)]], stored, now)
        if "k" in stored:
            assert settle(stored["k"], bucket_limit, now + bucket_limit.ttl_ms * 1000).tokens == bucket_limit.burst


@pytest.mark.slow
@given(limits(), limits(), st.data())
def test_an_edit_never_refills(before: Limit, after: Limit, data: st.DataObject) -> None:
    tokens = data.draw(st.integers(0, before.burst))
    elapsed = data.draw(st.integers(0, before.fill_us + 1))
    held = Bucket(tokens, START, before.rate)
    exact = min(Fraction(after.burst), tokens + Fraction(elapsed * before.rate.tokens, before.rate.period_us))
    found = settle(held, after, START + elapsed)
    age = START + elapsed - found.since_us
    assert found.rate == after.rate
    assert 0 <= found.tokens <= after.burst
    assert age >= 0
    assert found.tokens + Fraction(age * after.rate.tokens, after.rate.period_us) <= exact


def test_a_bucket_that_starts_below_the_cost_admits_it_when_the_retry_is_due() -> None:
    check(limit(burst=5, initial=0), [Step(0, 1, False, 0, SECOND), Step(SECOND, 1, True, 0)])


# -- a rate fits a burst so that every product is exact ---------------------------------------------------------------


@given(st.integers(1, 10**9), st.integers(1, MAX_PERIOD_US), st.integers(1, MAX_BURST))
def test_a_fitted_rate_is_never_above_the_wanted_one_and_close_to_it(tokens: int, period: int, burst: int) -> None:
    wanted = Fraction(tokens, period)
    try:
        rate = Rate.fitting(tokens, period, burst)
    except ValueError:
        assert wanted < Fraction(2 * burst, EXACT)  # slower than any rate that the burst leaves room for
        return
    fitted = Fraction(rate.tokens, rate.period_us)
    assert burst * rate.period_us <= EXACT
    assert (fitted.numerator, fitted.denominator) == (rate.tokens, rate.period_us)
    assert 0 < fitted <= wanted
    assert 1 - fitted / wanted <= Fraction(2 * burst, EXACT)


@pytest.mark.parametrize(
    ("tokens", "period", "burst", "fitted"),
    [
        (10, 60 * SECOND, 15, Rate(1, 6 * SECOND)),
        (100, SECOND, 100, Rate(1, 10_000)),
        (3, 2 * SECOND, 3, Rate(3, 2 * SECOND)),
        (1, 2_500_000, 1, Rate(1, 2_500_000)),
        (5000, 24 * HOUR, 5000, Rate(1, 17_280_000)),
        (24, 24 * HOUR, 24, Rate(1, HOUR)),
        (1, MAX_PERIOD_US, 1, Rate(1, MAX_PERIOD_US)),
        (7, 24 * HOUR, 100_000, Rate(7, 24 * HOUR)),
        (10**9, 1, MAX_BURST, Rate(10**9, 1)),
    ],
)
def test_a_rate_that_a_person_would_write_is_kept_as_it_is(tokens: int, period: int, burst: int, fitted: Rate) -> None:
    assert Rate.fitting(tokens, period, burst) == fitted


def test_a_rate_too_slow_for_its_burst_is_an_error() -> None:
    with pytest.raises(ValueError, match="too slow for a burst of 1000000000"):
        Rate.fitting(1, MAX_PERIOD_US, MAX_BURST)
