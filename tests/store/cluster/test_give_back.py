"""give_back.lua on a real store: a bucket never gets back more than was taken, less its growth meanwhile."""

import json
from itertools import combinations
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sidegate.decision.bucket import Charge, Level, Limit, Rate
from sidegate.store.cluster.cluster_store import GIVE_BACK

from tests.servers import StoreServer
from tests.store.virtual_time import READS_TIME, START, ScriptStore

RATE = "1/6000000"
STOOD_US = 2_000_000
EARLY_US = 1_000_000


def give_back(
    store: StoreServer,
    *,
    cost: int = 3,
    burst: int = 10,
    rate: str = RATE,
    stood_us: int = STOOD_US,
    left: tuple[int, int] = (-1, 0),
) -> int:
    """`left`: tokens and age that the charge left; as they are here, somebody else has charged the bucket since."""
    client: Any = store.client
    return int(client.eval(GIVE_BACK, 1, "k", store.time_us() - stood_us, cost, burst, rate, *left))


def bucket(store: StoreServer, tokens: object = 4, since: object = EARLY_US, rate: str = RATE) -> None:
    client: Any = store.client
    client.hset("k", mapping={"tokens": tokens, "since": since, "rate": rate})


def found(store: StoreServer) -> tuple[int, int]:
    client: Any = store.client
    tokens, since = client.hmget("k", "tokens", "since")
    return int(tokens), int(since)


def just_now(store: StoreServer, tokens: int) -> int:
    """A bucket that was charged a moment ago; returns when."""
    since = store.time_us()
    bucket(store, tokens, since)
    return since


def test_a_bucket_without_other_charges_is_restored_exactly(store_server: StoreServer) -> None:
    since = just_now(store_server, 4)
    assert give_back(store_server, stood_us=1_000_000, left=(4, 0)) == 1
    assert found(store_server) == (7, since)


def test_a_bucket_that_was_charged_what_had_grown_is_not_taken_for_an_untouched_one(store_server: StoreServer) -> None:
    since = just_now(store_server, 4)  # as it was left, but a token's growth later
    assert give_back(store_server, stood_us=2_000_000, left=(4, 6_000_000)) == 1
    assert found(store_server)[0] == 6
    assert found(store_server)[1] < since


def test_tokens_come_back_less_what_grew_while_they_stood_reserved(store_server: StoreServer) -> None:
    since = just_now(store_server, 4)
    assert give_back(store_server) == 1
    # Of three tokens a third of one grew: two are there, and the next has been growing for 4 s of its 6.
    tokens, since_then = found(store_server)
    assert tokens == 6
    assert since - 4_000_000 <= since_then <= store_server.time_us()


def test_no_more_comes_back_than_is_left_when_as_much_has_grown(store_server: StoreServer) -> None:
    since = just_now(store_server, 4)
    assert give_back(store_server, cost=3, stood_us=18_000_000) == 0
    assert found(store_server) == (4, since)


def test_no_bucket_holds_more_than_its_burst(store_server: StoreServer) -> None:
    just_now(store_server, 9)
    assert give_back(store_server, cost=3, burst=10, stood_us=0) == 1
    assert found(store_server)[0] == 10


def test_a_bucket_that_has_grown_full_meanwhile_gets_nothing(store_server: StoreServer) -> None:
    bucket(store_server)
    assert give_back(store_server) == 0
    assert found(store_server) == (4, EARLY_US)


def test_a_bucket_that_is_full_again_stays_as_it_is(store_server: StoreServer) -> None:
    bucket(store_server, tokens=10)
    assert give_back(store_server) == 0
    assert found(store_server) == (10, EARLY_US)


def test_a_burst_that_became_smaller_takes_nothing_away(store_server: StoreServer) -> None:
    bucket(store_server, tokens=8)
    give_back(store_server, burst=5)
    assert found(store_server)[0] == 8


def test_an_expired_bucket_is_not_created_again(store_server: StoreServer) -> None:
    assert give_back(store_server) == 0
    assert store_server.client.dbsize() == 0


@pytest.mark.parametrize("fields", [{"rate": "1/5000000"}, {"tokens": "x"}, {"tokens": "-1"}, {"tokens": "1.5"}])
def test_a_bucket_with_another_rate_or_invalid_fields_is_not_changed(
    store_server: StoreServer, fields: dict[str, Any]
) -> None:
    bucket(store_server, **fields)
    client: Any = store_server.client
    before = client.hgetall("k")
    assert give_back(store_server) == 0
    assert client.hgetall("k") == before


def test_a_key_of_another_type_is_not_changed(store_server: StoreServer) -> None:
    store_server.client.set("k", "a string")
    assert give_back(store_server) == 0
    assert store_server.client.get("k") == b"a string"


def test_a_clock_that_was_set_back_gives_nothing(store_server: StoreServer) -> None:
    bucket(store_server)
    assert give_back(store_server, stood_us=-60_000_000) == 0
    assert found(store_server) == (4, EARLY_US)


# -- reserved, and given back, in every order -------------------------------------------------------------------------

assert GIVE_BACK.count(READS_TIME) == 1
VIRTUAL_GIVE_BACK = GIVE_BACK.replace(READS_TIME, "local time = cjson.decode(ARGV[#ARGV])")


class Taken(NamedTuple):
    """What a request took from the bucket, and when: the moment it asked for before, and that of its charge."""

    asked_us: int
    at_us: int
    cost: int
    left: Level


class Step(NamedTuple):
    """After `pause_us` either a charge, whose node's clock was asked `early_us` before, or the return of one taken."""

    pause_us: int
    gives_back: bool
    which: int
    cost: int
    early_us: int


# Mostly none, so that a bucket is emptied at one moment; else up to what fills it.
PAUSES_US = st.sampled_from([0, 0, 0, 0, 0, 0, 1, 700, 2_000, 4_000])
STEPS = st.lists(
    st.builds(
        Step,
        PAUSES_US,
        st.sampled_from([False, False, False, True]),
        st.integers(0, 5),
        st.integers(1, 4),
        st.sampled_from([0, 0, 1, 400]),
    ),
    min_size=8,
    max_size=40,
)
LIMITS = st.builds(
    lambda tokens, burst: Limit(Rate(tokens, 1_000), burst, burst, 60_000), st.integers(1, 2), st.integers(3, 6)
)


@pytest.mark.slow
@settings(max_examples=400)
@given(limit=LIMITS, steps=STEPS)
def test_whatever_is_reserved_and_given_back_what_stays_taken_is_within_burst_and_rate_in_every_span(
    store_server: StoreServer, limit: Limit, steps: list[Step]
) -> None:
    """Buckets that fill by a token or more a millisecond, and reservations that stand while they do."""
    store_server.client.delete("k")
    client: Any = store_server.client
    script, now_us, taken = ScriptStore(store_server.client), START, list[Taken]()
    for step in steps:
        now_us += step.pause_us
        if not step.gives_back:
            ((level,),) = script.decide([[Charge("k", limit, step.cost)]], now_us)
            assert level is not None
            if level.enough:
                taken.append(Taken(now_us - step.early_us, now_us, step.cost, level))
        elif taken:
            back = taken.pop(step.which % len(taken))
            time = json.dumps([str(now_us // 1_000_000), str(now_us % 1_000_000)])
            rate = f"{limit.rate.tokens}/{limit.rate.period_us}"
            words = (back.asked_us, back.cost, limit.burst, rate, back.left.tokens, back.left.age_us, time)
            client.eval(VIRTUAL_GIVE_BACK, 1, "k", *words)
    for first, last in combinations(range(len(taken)), 2):
        cost = sum(each.cost for each in taken[first : last + 1])
        span_us = taken[last].at_us - taken[first].at_us
        assert (cost - limit.burst) * limit.rate.period_us <= limit.rate.tokens * span_us
