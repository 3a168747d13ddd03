"""give_back.lua on a real store: a bucket never holds more than it would without the requests that gave back."""

import json
from fractions import Fraction
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sidegate.decision.bucket import Charge, ChargeKind, Level, Limit, Rate
from sidegate.store.cluster.give_back import GIVE_BACK
from sidegate.store.redis.batch import Batch

from tests.servers import StoreServer
from tests.store.virtual_time import READS_TIME, START, VIRTUAL_SCRIPT

RATE = "1/6000000"
AGO_US = 2_000_000
EARLY_US = 1_000_000


def give_back(
    store: StoreServer,
    *,
    cost: int = 3,
    burst: int = 10,
    rate: str = RATE,
    ago_us: int = AGO_US,
    left: tuple[int, int] = (4, 0),
    returned: int = 0,
) -> int:
    """Gives back a charge that was made `ago_us` ago and left these tokens and this age."""
    client: Any = store.client
    return int(client.eval(GIVE_BACK, 1, "k", store.time_us() - ago_us, cost, burst, rate, *left, returned))


def bucket(store: StoreServer, tokens: object = 4, since: object = EARLY_US, rate: str = RATE) -> None:
    client: Any = store.client
    client.hset("k", mapping={"tokens": tokens, "since": since, "rate": rate})


def found(store: StoreServer) -> tuple[int, int, int]:
    """Tokens, since and returned."""
    client: Any = store.client
    tokens, since, returned = client.hmget("k", "tokens", "since", "returned")
    return int(tokens), int(since), int(returned or 0)


def charged(store: StoreServer, tokens: int, ago_us: int = AGO_US) -> int:
    """A bucket that a charge left at so many tokens; returns when."""
    since = store.time_us() - ago_us
    bucket(store, tokens, since)
    return since


def test_a_bucket_that_was_not_nearly_full_is_restored_exactly(store_server: StoreServer) -> None:
    since = charged(store_server, 4)
    assert give_back(store_server) == 1
    assert found(store_server) == (7, since, 3)


def test_charges_of_others_meanwhile_stay(store_server: StoreServer) -> None:
    since = charged(store_server, 4)
    bucket(store_server, 1, since)
    assert give_back(store_server) == 1
    assert found(store_server) == (4, since, 3)


def test_growth_that_would_have_been_lost_at_the_burst_is_not_given_back(store_server: StoreServer) -> None:
    charged(store_server, 7)
    begun = store_server.time_us()
    assert give_back(store_server, left=(7, 0)) == 1
    # Full at its charge, the bucket would be full now: what grew since, a third of a token, is not given back.
    tokens, since, returned = found(store_server)
    assert begun - 6_000_000 <= since <= store_server.time_us()
    assert (tokens, returned) in {(9, 3), (10, 3)}
    ended = store_server.time_us()
    full = tokens + (ended - since) / 6_000_000
    assert 9.99 <= full <= 10.01 + (ended - begun) / 6_000_000


def test_tokens_given_back_for_others_meanwhile_count_as_held(store_server: StoreServer) -> None:
    since = charged(store_server, 4)
    # Five came back and were charged again: the bucket may have held nine, and without this charge twelve.
    client: Any = store_server.client
    client.hset("k", "returned", 12)
    assert give_back(store_server, ago_us=0, returned=7) == 1
    assert found(store_server)[2] == 13
    assert found(store_server)[0] + (store_server.time_us() - since) / 6_000_000 == pytest.approx(5.33, abs=0.1)
    assert give_back(store_server, ago_us=0, returned=6) == 0


def test_a_bucket_that_may_have_been_full_meanwhile_gets_nothing(store_server: StoreServer) -> None:
    since = charged(store_server, 4)
    assert give_back(store_server, ago_us=36_000_000) == 0
    assert found(store_server) == (4, since, 0)


def test_no_bucket_holds_more_than_its_burst(store_server: StoreServer) -> None:
    charged(store_server, 9)  # reset by hand since its charge
    assert give_back(store_server, left=(1, 0)) == 1
    assert found(store_server)[0] == 10


def test_an_expired_bucket_is_not_created_again(store_server: StoreServer) -> None:
    assert give_back(store_server) == 0
    assert not store_server.client.exists("k")


@pytest.mark.parametrize(
    "fields",
    [{"rate": "1/5000000"}, {"tokens": "x"}, {"tokens": "1.5"}, {"since": 4 * 10**15}],
    ids=str,
)
def test_a_bucket_with_another_rate_or_invalid_fields_is_not_changed(
    store_server: StoreServer, fields: dict[str, Any]
) -> None:
    bucket(store_server, **fields)
    client: Any = store_server.client
    before = client.hgetall("k")
    assert give_back(store_server) == 0
    assert client.hgetall("k") == before


def test_a_count_of_another_bucket_with_the_same_name_gives_nothing(store_server: StoreServer) -> None:
    since = charged(store_server, 4)  # the bucket was reset since its charge, and its count began again
    assert give_back(store_server, returned=5) == 0
    assert found(store_server) == (4, since, 0)


def test_a_key_of_another_type_is_not_changed(store_server: StoreServer) -> None:
    store_server.client.set("k", "a string")
    assert give_back(store_server) == 0
    assert store_server.client.get("k") == b"a string"


def test_a_clock_that_was_set_back_gives_nothing(store_server: StoreServer) -> None:
    bucket(store_server)
    assert give_back(store_server, ago_us=-60_000_000) == 0
    assert found(store_server) == (4, EARLY_US, 0)


# -- reserved, and given back, in every order -------------------------------------------------------------------------

assert GIVE_BACK.count(READS_TIME) == 1
VIRTUAL_GIVE_BACK = GIVE_BACK.replace(READS_TIME, "local time = cjson.decode(ARGV[#ARGV])")


class Taken(NamedTuple):
    """A request's charge: when, how much, and what the script replied."""

    at_us: int
    cost: int
    left: Level
    returned: int


class Step(NamedTuple):
    """After `pause_us` either a charge, or the return of one of those that stand."""

    pause_us: int
    gives_back: bool
    which: int
    cost: int


class VirtualBucket:
    """The bucket `k` of a real store under both scripts, with a clock set by the test."""

    def __init__(self, store: StoreServer, limit: Limit) -> None:
        self._client: Any = store.client
        self._limit = limit
        self._client.delete("k")
        self._charge = self._client.register_script(VIRTUAL_SCRIPT)
        self._give_back = self._client.register_script(VIRTUAL_GIVE_BACK)

    def charge(self, cost: int, now_us: int, kind: ChargeKind = ChargeKind.TAKE) -> Taken | None:
        batch: Batch[None] = Batch()
        batch.returnable = True
        batch.add([Charge("k", self._limit, cost, kind=kind)], None)
        _, *words = batch.arguments()
        ((_, (level,)),) = batch.deliver(self._charge(["k"], [*words[1:], _clock(now_us)]))
        assert batch.charged_us == now_us
        return Taken(now_us, cost, level, batch.returned_to("k")) if level is not None and level.enough else None

    def give_back(self, taken: Taken, now_us: int) -> int:
        """Give a charge back; returns for how many tokens that counts."""
        before, rate = self._returned(), self._limit.rate
        words = (taken.at_us, taken.cost, self._limit.burst, f"{rate.tokens}/{rate.period_us}")
        self._give_back(["k"], [*words, taken.left.tokens, taken.left.age_us, taken.returned, _clock(now_us)])
        return self._returned() - before

    def level(self, now_us: int) -> Fraction:
        """The exact level of the bucket, in tokens; below its burst."""
        tokens, since = self._client.hmget("k", "tokens", "since")
        if tokens is None:
            return Fraction(self._limit.burst)
        rate = Fraction(self._limit.rate.tokens, self._limit.rate.period_us)
        return min(Fraction(self._limit.burst), int(tokens) + (now_us - int(since)) * rate)

    def _returned(self) -> int:
        return int(cast(bytes, self._client.hget("k", "returned")) or 0)


def _clock(now_us: int) -> str:
    return json.dumps([str(now_us // 1_000_000), str(now_us % 1_000_000)])


def level_of(limit: Limit, charges: list[Taken], now_us: int) -> Fraction:
    """The level of a continuous bucket that had only these charges; negative where it could not have had them."""
    level, since_us = Fraction(limit.burst), START
    rate = Fraction(limit.rate.tokens, limit.rate.period_us)
    lowest = level
    for each in sorted(charges):
        level = min(Fraction(limit.burst), level + (each.at_us - since_us) * rate) - each.cost
        since_us = each.at_us
        lowest = min(lowest, level)
    return min(lowest, Fraction(0)) or min(Fraction(limit.burst), level + (now_us - since_us) * rate)


# Mostly none, so that a bucket is emptied at one moment; else up to what fills it.
PAUSES_US = st.sampled_from([0, 0, 0, 0, 0, 0, 1, 700, 2_000, 4_000])
STEPS = st.lists(
    st.builds(Step, PAUSES_US, st.sampled_from([False, False, True]), st.integers(0, 5), st.integers(1, 4)),
    min_size=8,
    max_size=40,
)
LIMITS = st.builds(
    lambda tokens, burst: Limit(Rate(tokens, 1_000), burst, burst, 60_000), st.integers(1, 2), st.integers(3, 6)
)


@pytest.mark.slow
@settings(max_examples=400)
@given(limit=LIMITS, steps=STEPS, held=st.integers(0, 2))
@pytest.mark.long
def test_a_bucket_never_holds_more_than_without_the_requests_that_gave_back(
    store_server: StoreServer, limit: Limit, steps: list[Step], held: int
) -> None:
    """Buckets that fill by a token or more a millisecond, and reservations that stand while they do.

    So the charges that stay are within burst and rate in every span: a bucket that had no others would have had them.
    Costs that are held all the while are still in the bucket.
    """
    bucket, now_us = VirtualBucket(store_server, limit), START
    if held:
        bucket.charge(held, now_us, ChargeKind.HOLD)
    standing: list[Taken] = []
    for step in steps:
        now_us += step.pause_us
        if not step.gives_back:
            if (taken := bucket.charge(step.cost, now_us)) is not None:
                standing.append(taken)
        elif standing:
            bucket.give_back(standing.pop(step.which % len(standing)), now_us)
        assert bucket.level(now_us) <= level_of(limit, standing, now_us)


@pytest.mark.slow
@settings(max_examples=200)
@given(limit=LIMITS, steps=STEPS)
def test_a_bucket_far_from_full_gets_everything_back(
    store_server: StoreServer, limit: Limit, steps: list[Step]
) -> None:
    """As above, with room for all growth and all returns: at the end it holds what it would have without them."""
    roomy = Limit(limit.rate, limit.burst + 1_000, limit.burst, limit.idle_ttl_ms)
    bucket, now_us = VirtualBucket(store_server, roomy), START
    standing: list[Taken] = []
    for step in steps:
        now_us += step.pause_us
        if not step.gives_back:
            if (taken := bucket.charge(step.cost, now_us)) is not None:
                standing.append(taken)
        elif standing:
            taken = standing.pop(step.which % len(standing))
            assert bucket.give_back(taken, now_us) == taken.cost
