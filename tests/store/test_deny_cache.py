"""Refusals without a call, with a clock set by the test; the cache never refuses what the store would allow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidegate.decision.bucket import Bucket, Charge, Level, Limit, Rate
from sidegate.decision.charging import decide, passed
from sidegate.store.deny_cache import MEMORY_S, STEADY_S, DenyCache

SECOND = 1_000_000
TENTHS = Limit(Rate(1, 100_000), 5, 5, 1)
SLOW = Limit(Rate(1, 60 * SECOND), 5, 5, 1)


def empty(key: str = "k", limit: Limit = TENTHS, cost: int = 1) -> tuple[Charge, Level]:
    return Charge(key, limit, cost), Level(0, 0, False)


def lacks(cache: DenyCache, charge: Charge, now_s: float) -> bool:
    return cache.lacking(charge, now_s) is not None


# -- what is remembered -----------------------------------------------------------------------------------------------


def test_an_unknown_bucket_has_no_entry() -> None:
    assert DenyCache().lacking(Charge("k", TENTHS, 1), 100.0) is None


@pytest.mark.parametrize(
    ("tokens", "age_us", "cost", "after_us", "found"),
    [
        (0, 0, 1, 0, (0, 0)),
        (0, 0, 1, 50_000, (0, 50_000)),
        (0, 0, 1, 99_990, (0, 99_990)),
        (0, 0, 1, 100_000, None),
        (0, 60_000, 1, 30_000, (0, 90_000)),
        (0, 60_000, 1, 40_000, None),
        (1, 0, 3, 150_000, (2, 50_000)),
        (1, 0, 3, 200_000, None),
    ],
)
def test_a_bucket_lacks_tokens_until_they_can_have_grown_since_the_call(
    tokens: int, age_us: int, cost: int, after_us: int, found: tuple[int, int] | None
) -> None:
    cache = DenyCache()
    charge = Charge("k", TENTHS, cost)
    cache.remember(charge, Level(tokens, age_us, False), asked_s=100.0)
    level = cache.lacking(charge, 100.0 + after_us / 1e6)
    if found is None:
        assert level is None
    else:
        assert level is not None
        assert (level.tokens, level.enough) == (found[0], False)
        assert found[1] <= level.age_us <= found[1] + 2  # the cache rounds for the caller


def test_a_charge_within_the_level_needs_a_call() -> None:
    cache = DenyCache()
    cache.remember(Charge("k", SLOW, 4), Level(3, 0, False), asked_s=100.0)
    assert lacks(cache, Charge("k", SLOW, 4), 100.5)
    assert not lacks(cache, Charge("k", SLOW, 3), 100.5)
    assert not lacks(cache, Charge("k", SLOW, 0), 100.5)


def test_a_refusal_is_remembered_for_a_second_at_most() -> None:
    cache = DenyCache()
    charge, level = empty(limit=SLOW)
    cache.remember(charge, level, asked_s=100.0)
    assert lacks(cache, charge, 100.0 + MEMORY_S - 0.001)
    assert not lacks(cache, charge, 100.0 + MEMORY_S)


def test_an_edited_limit_needs_a_call_at_once() -> None:
    cache = DenyCache()
    charge, level = empty(limit=SLOW)
    cache.remember(charge, level, asked_s=100.0)
    assert not lacks(cache, charge._replace(limit=Limit(Rate(100, SECOND), 5, 5, 1)), 100.1)


def test_what_grew_before_an_edit_counts_at_the_old_rate() -> None:
    cache = DenyCache()
    cache.remember(Charge("k", TENTHS, 5), Level(0, 0, False), asked_s=100.0)
    assert not lacks(cache, Charge("k", SLOW, 1), 100.3)


def test_a_later_level_of_a_bucket_replaces_the_earlier() -> None:
    cache = DenyCache()
    charge, level = empty(limit=SLOW)
    cache.remember(charge, level, asked_s=100.0)
    cache.remember(charge, level, asked_s=100.8)
    assert lacks(cache, charge, 101.5)
    assert len(cache) == 1


def test_a_bucket_that_was_reset_is_forgotten() -> None:
    cache = DenyCache()
    for key in "ab":
        cache.remember(*empty(key, SLOW), asked_s=100.0)
    cache.forget("a", 0.0)
    cache.forget("never seen", 0.0)
    assert not lacks(cache, empty("a", SLOW)[0], 100.0)
    assert lacks(cache, empty("b", SLOW)[0], 100.0)
    cache.clear()
    assert len(cache) == 0


# -- how much is remembered -------------------------------------------------------------------------------------------


def test_the_oldest_entry_is_dropped() -> None:
    cache = DenyCache(most_entries=3)
    for key in "abcd":
        cache.remember(*empty(key, SLOW), asked_s=100.0)
    assert [key for key in "abcd" if lacks(cache, empty(key, SLOW)[0], 100.0)] == ["b", "c", "d"]


def test_a_bucket_seen_again_is_no_longer_the_oldest() -> None:
    cache = DenyCache(most_entries=3)
    for key in "abcad":
        cache.remember(*empty(key, SLOW), asked_s=100.0)
    assert [key for key in "abcd" if lacks(cache, empty(key, SLOW)[0], 100.0)] == ["a", "c", "d"]


def test_the_cache_is_bounded_for_any_number_of_identities() -> None:
    cache = DenyCache(most_entries=100)
    for number in range(1_000):
        cache.remember(*empty(f"{number}", SLOW), asked_s=100.0)
    assert len(cache) == 100


def test_an_entry_past_its_time_is_dropped_when_it_is_met() -> None:
    cache = DenyCache()
    charge, level = empty()
    cache.remember(charge, level, asked_s=100.0)
    assert not lacks(cache, charge, 200.0)
    assert len(cache) == 0


# -- it never refuses what the store would have allowed ---------------------------------------------------------------

rates = st.sampled_from([Rate(1, SECOND), Rate(3, SECOND), Rate(1, 1000), Rate(7, 10), Rate(1, 60 * SECOND)])


@pytest.mark.slow
@given(
    rate=rates,
    burst=st.integers(1, 10),
    moments=st.lists(
        st.tuples(
            st.sampled_from([0, 1, 7, 999, 1000, 333_333, 333_334, SECOND - 1, SECOND]) | st.integers(0, 2 * SECOND),
            st.integers(1, 10),  # cost of this proxy's request
            st.integers(0, 3),  # what other proxies take just before
            st.integers(0, 5_000),  # how long the question is under way
        ),
        min_size=1,
        max_size=30,
    ),
    begun_s=st.sampled_from([0.0, 12.3, 86_400.123456, 3e7]),
)
def test_what_the_cache_refuses_the_store_would_refuse(
    rate: Rate, burst: int, moments: list[tuple[int, int, int, int]], begun_s: float
) -> None:
    """This proxy's clock runs at the pace of the store's and is otherwise unrelated to it."""
    limit = Limit(rate, burst, burst, 1)
    stored: dict[str, Bucket] = {}
    cache, now_us = DenyCache(), 1_700_000_000_000_000
    for pause_us, cost, taken, under_way_us in moments:
        now_us += pause_us
        asked_s = begun_s + (now_us - 1_700_000_000_000_000) / 1e6
        decide([[Charge("k", limit, taken)]], stored, now_us)
        request = [Charge("k", limit, cost)]
        if cache.lacking(request[0], asked_s) is not None:
            assert not passed(request, decide([request], dict(stored), now_us)[0])
            continue
        now_us += under_way_us
        (levels,) = decide([request], stored, now_us)
        if levels[0].tokens < cost:
            cache.remember(request[0], levels[0], asked_s)


# -- levels returned again ------------------------------------------------------------------------------------------------


def test_the_same_level_is_returned_for_ten_milliseconds() -> None:
    cache = DenyCache()
    charge, level = empty(limit=SLOW)
    cache.remember(charge, level, asked_s=100.0)
    returned = cache.lacking(charge, 100.5)
    assert cache.lacking(charge, 100.5 + STEADY_S * 0.9) is returned
    later = cache.lacking(charge, 100.5 + STEADY_S * 1.1)
    assert later is not None
    assert returned is not None
    assert later.age_us - returned.age_us == pytest.approx(STEADY_S * 1.1e6, abs=2)


def test_a_cached_level_is_not_returned_for_a_cost_within_it() -> None:
    cache = DenyCache()
    cache.remember(Charge("k", SLOW, 4), Level(3, 0, False), asked_s=100.0)
    assert lacks(cache, Charge("k", SLOW, 4), 100.5)
    assert not lacks(cache, Charge("k", SLOW, 3), 100.5)


def test_a_cached_level_ends_when_the_bucket_may_have_grown_enough() -> None:
    cache = DenyCache()
    charge, level = empty(limit=Limit(Rate(1, 2_000), 5, 5, 1))
    cache.remember(charge, level, asked_s=100.0)
    assert lacks(cache, charge, 100.0019)
    assert not lacks(cache, charge, 100.002)
