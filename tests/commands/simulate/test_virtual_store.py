"""The replay's store decides like the reference in Python and like the Lua script."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidegate.commands.simulate import virtual_store
from sidegate.commands.simulate.virtual_store import VirtualStore
from sidegate.decision.bucket import Bucket, Charge, Limit, Rate
from sidegate.decision.charging import decide, passed

from tests.servers import StoreServer
from tests.store.virtual_time import START, ReferenceStore, ScriptStore

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
LATEST_US = 60 * SECOND


class History(NamedTuple):
    """Requests with their times. As under one configuration, a key keeps its limit and occurs once in a request."""

    requests: list[tuple[int, list[Charge]]]


@st.composite
def limits(draw: st.DrawFn, *, forgets: bool = True) -> Limit:
    """`forgets`: an idle bucket may expire within a history, and start at `initial` again."""
    burst = draw(st.integers(1, 6) | st.integers(1, 1000))
    period_us = draw(st.sampled_from([7, 1000, SECOND, 60 * SECOND, HOUR, DAY]) | st.integers(1, DAY))
    rate = Rate.fitting(draw(st.integers(1, 20)), period_us, burst)
    initial = draw(st.just(burst) | st.integers(0, burst))
    return Limit(rate, burst, initial, draw(st.sampled_from([1, 1000, 3_600_000])) if forgets else 400 * 86_400_000)


@st.composite
def histories(draw: st.DrawFn, *, late: bool = False) -> History:
    """`late`: times may step back by LATEST_US at most, and no bucket expires."""
    known = {name: draw(limits(forgets=not late)) for name in "abc"}
    typical = known["a"]
    steps = [0, 1, typical.wait_us(1, 0), typical.wait_us(1, 1), typical.wait_us(1, 0) // 3, typical.fill_us]
    steps += [typical.ttl_ms * 1000, typical.ttl_ms * 1000 - 1, SECOND, HOUR, DAY]
    if late:
        steps = [min(step, 10 * DAY) for step in steps]
    names = st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)
    costs = st.integers(0, 3) | st.integers(0, typical.burst + 1)
    latest_us, requests = START, []
    for _ in range(draw(st.integers(1, 12))):
        latest_us += draw(st.sampled_from(steps))
        back_us = draw(st.sampled_from([0, 0, 1, SECOND, LATEST_US])) if late else 0
        charges = [Charge(name, known[name], draw(costs), draw(st.booleans())) for name in draw(names)]
        requests.append((latest_us - back_us, charges))
    return History(requests)


@pytest.fixture(params=["rarely", "often"])
def sweeping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether buckets that are equivalent to new ones are dropped as soon as possible."""
    if request.param == "often":
        monkeypatch.setattr(virtual_store, "_FIRST_SWEEP", 0)


@pytest.mark.slow
@pytest.mark.usefixtures("sweeping")
@given(histories())
def test_replay_decides_like_the_reference_and_like_the_script_on_a_real_store(
    store_server: StoreServer, history: History
) -> None:
    store_server.client.flushall()
    replayed, reference, script = VirtualStore(), ReferenceStore(), ScriptStore(store_server.client)
    for now_us, charges in history.requests:
        levels, passes = replayed.decide(charges, now_us)
        assert [tuple(levels)] == reference.decide([charges], now_us)
        assert [tuple(levels)] == script.decide([charges], now_us)
        assert passes == passed(charges, levels)
    assert replayed.forgotten == 0


@pytest.mark.slow
@pytest.mark.usefixtures("sweeping")
@given(histories(late=True))
def test_late_lines_are_decided_like_the_reference_at_the_latest_time_before_them(history: History) -> None:
    replayed, stored, clock_us = VirtualStore(), dict[str, Bucket](), 0
    for now_us, charges in history.requests:
        levels, _ = replayed.decide(charges, now_us)
        clock_us = max(clock_us, now_us)
        assert [tuple(levels)] == decide([charges], stored, clock_us)


def test_late_line_still_finds_its_bucket_in_the_store() -> None:
    limit = Limit(Rate(1, SECOND), burst=10, initial=5, idle_ttl_ms=20_000)
    replayed = VirtualStore()
    tokens = [replayed.decide([Charge("k", limit, 1)], START + at_s * SECOND)[0][0].tokens for at_s in (0, 10, 0, 19)]
    assert tokens == [4, 9, 8, 9]  # not 4 again at 19 s, its first expiry


# -- bounded memory -----------------------------------------------------------------------------------------------------------


def one_request_each(store: VirtualStore, keys: Sequence[str], limit: Limit, now_us: int) -> None:
    for key in keys:
        store.decide([Charge(key, limit, 1)], now_us)


def test_full_buckets_are_dropped_without_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_store, "_FIRST_SWEEP", 100)
    limit = Limit(Rate(1, SECOND), burst=2, initial=2, idle_ttl_ms=1)
    store = VirtualStore()
    for minute in range(20):
        one_request_each(store, [f"{minute}-{number}" for number in range(50)], limit, START + minute * 60 * SECOND)
    assert len(store) < 200
    assert store.forgotten == 0


def test_at_the_memory_bound_the_fullest_buckets_are_dropped_first_and_counted() -> None:
    limit = Limit(Rate(1, HOUR), burst=10, initial=10, idle_ttl_ms=1)
    store = VirtualStore(most_buckets=20)
    for _ in range(10):
        store.decide([Charge("heavy", limit, 1)], START)
    one_request_each(store, [f"light-{number}" for number in range(100)], limit, START)
    assert len(store) <= 20
    assert store.forgotten >= 80
    levels, passes = store.decide([Charge("heavy", limit, 1)], START)
    assert not passes
    assert levels[0].tokens == 0


@pytest.mark.slow
def test_long_history_of_many_keys_is_decided_alike_while_buckets_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(virtual_store, "_FIRST_SWEEP", 200)
    chance = random.Random(3)
    short, long = Limit(Rate(1, SECOND), 5, 5, 1), Limit(Rate(1, 90 * SECOND), 3, 1, 300_000)
    replayed, reference = VirtualStore(), ReferenceStore()
    now_us = START
    for _ in range(5000):
        now_us += int(chance.expovariate(4) * SECOND)
        who = int(chance.paretovariate(0.7)) % 1000
        charges = [Charge(f"short-{who}", short, 1), Charge(f"long-{who % 300}", long, 1, shadow=who % 2 == 0)]
        assert [tuple(replayed.decide(charges, now_us)[0])] == reference.decide([charges], now_us)
    assert replayed.forgotten == 0
    assert len(replayed) < 1000
