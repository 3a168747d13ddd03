"""bucket.lua on a real server: equal to its reference, and free of the faults measured in other limiters."""

import re
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from sidegate.decision.bucket import (
    EXACT,
    HOLD_EPOCH_US,
    LEASE_US,
    MAX_PERIOD_US,
    Charge,
    ChargeKind,
    Level,
    Limit,
    Rate,
    places_limit,
)
from sidegate.store.redis.batch import Batch
from sidegate.store.redis.script import SCRIPT

from tests.recorder import eventually
from tests.servers import StoreServer
from tests.store.virtual_time import SLOW_MS, START, Decided, ReferenceStore, ScriptStore, VirtualStore, allowed

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR

Call = tuple[int, list[list[Charge]]]


def limit(rate: Rate, burst: int, initial: int | None = None, idle_ttl_ms: int = 1) -> Limit:
    """A limit whose buckets stay in the store no longer than they must, which is where others forget too soon."""
    return Limit(rate, burst, burst if initial is None else initial, idle_ttl_ms)


@pytest.fixture(params=["script", "reference"])
def store(request: pytest.FixtureRequest, store_server: StoreServer) -> VirtualStore:
    return ScriptStore(store_server.client) if request.param == "script" else ReferenceStore()


def admitted(store: VirtualStore, bucket_limit: Limit, calls: Sequence[tuple[int, int]]) -> int:
    """How many pass of so many requests at each (moment, requests) of one bucket."""
    request = [Charge("caller", bucket_limit, 1)]
    return sum(
        allowed(request, levels)
        for now_us, requests in calls
        for levels in store.decide([request] * requests, START + now_us)
    )


# -- the script and its reference are one -----------------------------------------------------------------------------


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    burst = draw(st.integers(1, 20) | st.integers(1, 10_000))
    period_us = draw(st.sampled_from([1, 7, 1000, SECOND, 60 * SECOND, HOUR, DAY]) | st.integers(1, DAY))
    rate = Rate.fitting(draw(st.integers(1, 20) | st.integers(1, 1_000_000)), period_us, burst)
    initial = draw(st.just(burst) | st.integers(0, burst))
    return Limit(rate, burst, initial, draw(st.sampled_from([1, 60_000, 3_600_000])))


@st.composite
def histories(draw: st.DrawFn) -> list[Call]:
    """Calls of one to four requests over one to three buckets, whose limits are edited now and then, in a call too."""
    versions = draw(st.lists(limits(), min_size=1, max_size=4))
    typical_us = max(1, versions[0].wait_us(1, 0))
    steps = st.sampled_from(
        [0, 1, -1, typical_us, typical_us - 1, typical_us // 3, versions[0].fill_us, DAY, -typical_us, -HOUR]
    )
    costs = st.integers(0, 3) | st.integers(0, versions[0].burst + 1)
    names = st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)
    now_us, calls = START, []
    for _ in range(draw(st.integers(1, 8))):
        now_us += draw(steps)
        chosen = draw(st.sampled_from(versions))
        requests = []
        for _ in range(draw(st.integers(1, 4))):
            if draw(st.integers(0, 9)) == 0:
                chosen = draw(st.sampled_from(versions))
            kinds = st.sampled_from([(False, ChargeKind.TAKE), (True, ChargeKind.TAKE), (False, ChargeKind.DEBIT)])
            requests.append([Charge(name, chosen, draw(costs), *draw(kinds)) for name in draw(names)])
        calls.append((now_us, requests))
    return calls


@pytest.mark.slow
@given(histories())
def test_the_script_decides_and_writes_what_the_reference_does(store_server: StoreServer, calls: list[Call]) -> None:
    store_server.client.flushall()
    script, reference = ScriptStore(store_server.client), ReferenceStore()
    for now_us, requests in calls:
        assert script.decide(requests, now_us) == reference.decide(requests, now_us)
        for key in "abc":
            found = script.found(key)
            assert found == reference.found(key)


@pytest.mark.slow
@given(st.data())
def test_holds_bookings_and_places_are_those_of_the_reference(store_server: StoreServer, data: st.DataObject) -> None:
    """Holds, bookings and places, settled, given back and freed in any order, beside plain charges."""
    store_server.client.flushall()
    script, reference = ScriptStore(store_server.client), ReferenceStore()
    versions = data.draw(st.lists(limits(), min_size=1, max_size=2))
    busy = places_limit(data.draw(st.integers(1, 3)))
    now_us, made, numbers = START, list[Charge](), count()
    typical_us = max(1, versions[0].wait_us(1, 0))
    steps = st.sampled_from([0, 1, -1, typical_us, versions[0].fill_us, HOLD_EPOCH_US, LEASE_US, LEASE_US - 1, -HOUR])
    for _ in range(data.draw(st.integers(1, 10))):
        now_us += data.draw(steps)
        requests = [
            data.draw(requests_after(made, versions, busy, numbers)) for _ in range(data.draw(st.integers(1, 3)))
        ]
        decided = script.decide(requests, now_us)
        assert decided == reference.decide(requests, now_us)
        for key in "ab":
            assert script.found(key) == reference.found(key)
        for key in "pq":
            assert script.leases(key, now_us) == reference.leases(key, now_us)
        for request, levels in zip(requests, decided, strict=True):
            made += [ended for charge, level in zip(request, levels, strict=True) for ended in ends_of(charge, level)]


def test_places_taken_before_the_clock_stepped_back_end_within_a_lease(store: ScriptStore | ReferenceStore) -> None:
    busy = places_limit(1)

    def taken(lease: str, now_us: int) -> bool:
        ((level,),) = store.decide([[Charge("p", busy, 1, kind=ChargeKind.PLACE, detail=(lease,))]], now_us)
        return level is not None and level.enough

    assert taken("of a sidecar that died", START)
    later_us = START - HOUR
    assert not taken("b", later_us)
    assert not taken("b", later_us + LEASE_US - 1)
    assert taken("b", later_us + LEASE_US)
    assert store.leases("p", later_us + LEASE_US) == {"b": later_us + 2 * LEASE_US}


@st.composite
def requests_after(
    draw: Any, made: list[Charge], versions: list[Limit], busy: Limit, numbers: Iterator[int]
) -> list[Charge]:
    """A request of one to three charges, or the end of something that was made before."""
    if made and draw(st.booleans()):
        return [draw(st.sampled_from(made))]
    request = []
    for name in draw(st.lists(st.sampled_from("abpq"), min_size=1, max_size=3, unique=True)):
        shadow = draw(st.booleans())
        if name in "pq":
            lease = f"lease-{next(numbers)}"
            request.append(Charge(name, busy, draw(st.integers(0, 1)), shadow, ChargeKind.PLACE, (lease,)))
            continue
        chosen = draw(st.sampled_from(versions))
        cost = draw(st.integers(0, 3) | st.integers(0, chosen.burst + 1))
        kind = draw(st.sampled_from([ChargeKind.TAKE, ChargeKind.DEBIT, ChargeKind.HOLD, ChargeKind.BOOK]))
        waits = st.sampled_from([0, chosen.wait_us(1, 0), chosen.wait_us(1, 0) - 1, chosen.fill_us, 60 * SECOND])
        request.append(Charge(name, chosen, cost, shadow, kind, (draw(waits),) if kind is ChargeKind.BOOK else ()))
    return request


def ends_of(charge: Charge, level: Level | None) -> list[Charge]:
    """Charges that end a hold (its cost given back, kept or exceeded), a booking, or a place; or keep the place."""
    if level is None or not level.enough:
        return []
    if charge.kind is ChargeKind.HOLD:
        finals = (0, charge.cost, 2 * charge.cost + 1, 200 * charge.limit.burst)
        return [charge._replace(kind=ChargeKind.SETTLE, detail=(final, level.at_us)) for final in finals]
    if charge.kind is ChargeKind.PLACE:
        return [charge._replace(kind=kind) for kind in (ChargeKind.LEAVE, ChargeKind.RENEW)]
    if charge.kind is ChargeKind.BOOK:
        return [charge._replace(kind=ChargeKind.UNBOOK, detail=(level.tokens, level.at_us - level.age_us))]
    return []


@pytest.mark.slow
@given(histories())
def test_a_stored_bucket_stays_at_least_until_it_is_full(store_server: StoreServer, calls: list[Call]) -> None:
    store_server.client.flushall()
    script = ScriptStore(store_server.client)
    for now_us, requests in calls:
        before = {key: script.found(key) for key in "abc"}
        script.decide(requests, now_us)
        for charge in (charge for request in requests for charge in request):
            found = script.found(charge.key)
            if found and found != before[charge.key] and found.bucket.rate == charge.limit.rate:
                age_us = max(0, now_us - found.bucket.since_us)
                missing = charge.limit.burst - found.bucket.tokens
                assert found.ttl_ms * 1000 >= charge.limit.wait_us(missing, age_us)


@st.composite
def extreme_limits(draw: st.DrawFn) -> Limit:
    """Limits at the edge of what a double holds."""
    burst = draw(st.sampled_from([1, 10**6, 10**9]))
    longest = min(MAX_PERIOD_US, EXACT // burst)
    period_us = draw(st.sampled_from([1, 17, longest, longest - 1]))
    tokens = draw(st.sampled_from([1, 2, 999_999_937, 2**31]))
    return Limit(Rate.fitting(tokens, period_us, burst), burst, burst, 1)


@pytest.mark.slow
@given(extreme_limits(), st.data())
def test_the_script_is_exact_up_to_the_largest_numbers(
    store_server: StoreServer, extreme: Limit, data: st.DataObject
) -> None:
    store_server.client.flushall()
    script, reference = ScriptStore(store_server.client), ReferenceStore()
    now_us = START
    steps = st.sampled_from([0, 1, extreme.wait_us(1, 0), extreme.wait_us(1, 1), extreme.fill_us, extreme.fill_us - 1])
    costs = st.sampled_from([1, extreme.burst // 2, extreme.burst - 1, extreme.burst])
    for _ in range(6):
        now_us = min(now_us + data.draw(steps), EXACT)  # which the clock reaches in 2255
        requests = [[Charge("k", extreme, data.draw(costs))]]
        assert script.decide(requests, now_us) == reference.decide(requests, now_us)
        assert script.found("k") == reference.found("k")


# -- measured faults of other limiters ----------------------------------------------------------------------------------


def test_volleys_with_pauses_get_no_more_than_burst_and_rate(store: VirtualStore) -> None:
    """Traefik admits 260: its key expires after 2 s instead of burst / rate."""
    volleys = [(number * 2_300_000, 60) for number in range(10)]
    assert admitted(store, limit(Rate(1, SECOND), 50), [*volleys, (22_800_000, 60)]) == 72


@pytest.mark.slow
def test_callers_with_different_clocks_share_one_bucket(store: VirtualStore) -> None:
    """Traefik and fortify admit up to 5355, APISIX all 10000: they believe the callers' clocks."""
    calls = [(moment * 10_000, 10) for moment in range(501) for _caller in range(2)]
    assert admitted(store, limit(Rate(1, 10_000), 100), calls) == 600


@pytest.mark.slow
@pytest.mark.parametrize("apart_us", [5_000, 10_000])
def test_a_store_clock_that_swings_refills_no_time_twice(store: VirtualStore, apart_us: int) -> None:
    calls = [(moment * 10_000 - back_us, 10) for moment in range(501) for back_us in (0, apart_us)]
    assert admitted(store, limit(Rate(1, 10_000), 100), calls) == 600


def test_the_callers_clock_is_not_sent_to_the_script() -> None:
    def asked() -> tuple[str | int, ...]:
        batch: Batch[None] = Batch()
        batch.add([Charge("caller", limit(Rate(1, 10_000), 100), 1)], None)
        *arguments, tag = batch.arguments()
        assert type(tag) is int
        return tuple(arguments)

    assert asked() == asked() == (1, "caller", '["1/10000",1,10000,100,100,1001]', "[1,1,1,1,0]")


def test_a_rate_below_one_a_second_is_kept(store: VirtualStore) -> None:
    """APISIX admits 11: its expiry of 1 s is shorter than 1 / rate."""
    calls = [(second * SECOND, 1) for second in range(12)]
    assert admitted(store, limit(Rate(1, 10 * SECOND), 1), calls) == 2


def test_a_bucket_that_idled_for_a_day_is_full(store: VirtualStore) -> None:
    """fortify admits 1: it counts an hour of elapsed time at most."""
    daily = limit(Rate(1, HOUR), 24)
    assert admitted(store, daily, [(0, 30)]) == 24
    assert admitted(store, daily, [(DAY, 30)]) == 24


def test_a_bucket_that_fills_in_less_than_a_second_is_remembered(store: VirtualStore) -> None:
    """throttled-py admits all 500: EXPIRE 0 deletes the key."""
    assert admitted(store, limit(Rate(1, 100_000), 4), [(call * 100, 1) for call in range(500)]) == 4


def test_half_tokens_a_second_add_up(store: VirtualStore) -> None:
    """throttled-py admits 13: it counts whole seconds and drops fractions."""
    rounding_us = 18  # each charge costs the caller less than a microsecond
    calls = [(moment * 100_000, 1) for moment in range(100)] + [(10 * SECOND + rounding_us, 1)]
    assert admitted(store, limit(Rate(3, 2 * SECOND), 3), calls) == 18


def test_a_single_microsecond_of_growth_counts(store: VirtualStore) -> None:
    """Lua's tostring prints 14 digits of the 16 that a moment in microseconds has."""
    odd = 123_457
    one = limit(Rate(1, SECOND), 1)
    assert admitted(store, one, [(odd, 1)]) == 1
    found = store.found("caller")
    assert found is not None
    assert found.bucket.since_us == START + odd
    assert admitted(store, one, [(odd + SECOND - 1, 1)]) == 0
    assert admitted(store, one, [(odd + SECOND, 1)]) == 1


def test_a_refusal_by_one_limit_charges_no_other(store: VirtualStore) -> None:
    """envoyproxy/ratelimit, Kong, APISIX and Limitador charge one counter after another."""
    wide, narrow = limit(Rate(1, HOUR), 100), limit(Rate(1, HOUR), 3)
    for request in (
        [Charge("wide", wide, 1), Charge("narrow", narrow, 1)],
        [Charge("narrow", narrow, 1), Charge("wide", wide, 1)],
    ):
        decided = store.decide([request] * 20, START)
        assert sum(allowed(request, levels) for levels in decided) in (3, 0)
    found = store.found("wide")
    assert found is not None
    assert found.bucket.tokens == 97


def test_a_debit_takes_the_tokens_that_are_there_and_never_refuses(store: VirtualStore) -> None:
    slow = limit(Rate(1, HOUR), 10)
    spent = [Charge("k", slow, 7, kind=ChargeKind.DEBIT)]
    assert store.decide([spent, spent, spent], START) == [
        (Level(3, 0, True),),
        (Level(0, 0, False),),
        (Level(0, 0, False),),
    ]
    found = store.found("k")
    assert found is not None
    assert found.bucket.tokens == 0
    assert store.decide([[Charge("k", slow, 1)]], START + HOUR) == [(Level(0, 0, True),)]


def test_a_debit_is_charged_beside_a_refusal(store: VirtualStore) -> None:
    slow = limit(Rate(1, HOUR), 10)
    request = [Charge("empty", limit(Rate(1, HOUR), 10, initial=0), 1), Charge("owing", slow, 4, kind=ChargeKind.DEBIT)]
    assert [level and level.tokens for level in store.decide([request], START)[0]] == [0, 6]
    assert store.decide([[Charge("owing", slow, 0)]], START) == [(Level(6, 0, True),)]


def test_requests_decided_together_under_two_limits_refill_nothing(store: VirtualStore) -> None:
    """As during a reload: some requests of one turn of the event loop were matched before it, some after."""
    slow, fast = limit(Rate(1, HOUR), 100), limit(Rate(1, SECOND), 100)
    store.decide([[Charge("k", slow, 90)]], START)
    late = START + HOUR - SECOND
    store.decide([[Charge("k", slow, 1)], [Charge("k", fast, 1)]], late)
    assert store.decide([[Charge("k", fast, 1)]], late) == [(Level(7, 999_721, True),)]


# -- what is written, and for how long --------------------------------------------------------------------------------


def run(client: redis.Redis, *requests: Sequence[Charge]) -> list[Decided]:
    """The shipped script, by the server's own clock."""
    batch: Batch[None] = Batch()
    for request in requests:
        batch.add(request, None)
    number, *rest = batch.arguments()
    return [levels for _, levels in batch.deliver(client.eval(SCRIPT, int(number), *rest))]


DEMO = Limit(Rate(1, 6 * SECOND), 15, 10, 3_600_000)


def test_the_clock_is_the_servers_own(store_server: StoreServer) -> None:
    before_us = store_server.time_us()
    run(store_server.client, [Charge("k", DEMO, 1)])
    after_us = store_server.time_us()
    state = store_server.client.hgetall("k")
    assert before_us <= int(state[b"since"]) <= after_us
    assert state[b"tokens"] == b"9"
    assert state[b"rate"] == b"1/6000000"


def test_a_bucket_of_an_hour_ahead_grows_from_first_contact(store_server: StoreServer) -> None:
    fast, client = Limit(Rate(1, SECOND // 20), 10, 10, 60_000), store_server.client
    ahead_us = store_server.time_us() + 3600 * SECOND
    client.hset("k", mapping={"tokens": 0, "since": ahead_us, "rate": f"1/{SECOND // 20}"})
    (level,) = run(client, [Charge("k", fast, 1)])[0]
    assert level is not None
    assert (level.tokens, level.enough) == (0, False), "what it did not grow is not credited"
    assert int(client.hget("k", "since") or 0) <= store_server.time_us()

    def admitted() -> bool:
        (level,) = run(client, [Charge("k", fast, 1)])[0]
        return level is not None and level.enough

    eventually(admitted, "a token that grew")


@pytest.mark.parametrize(
    ("rate", "burst", "idle_ttl_ms"),
    [
        (Rate(1, SECOND), 50, 1),
        (Rate(10**9, 1), 1, 1),
        (Rate(10, SECOND), 4, 1),
        (Rate(1, 366 * DAY), 1, 1),
        (Rate(1, 9_007_199), 10**9, 1),
        (Rate(1, 6 * SECOND), 15, 3_600_000),
        (Rate(1, SECOND), 1, 366 * 86_400_000),
    ],
)
def test_a_charged_bucket_expires_after_the_ttl_of_its_limit(
    store_server: StoreServer, rate: Rate, burst: int, idle_ttl_ms: int
) -> None:
    asked = Limit(rate, burst, burst, idle_ttl_ms)
    batch: Batch[None] = Batch()
    batch.add([Charge("k", asked, 1)], None)
    number, *rest = batch.arguments()
    transaction = store_server.client.pipeline(transaction=True)
    transaction.eval(SCRIPT, int(number), *rest)
    transaction.pttl("k")
    _, ttl_ms = transaction.execute()
    assert 0 <= asked.ttl_ms - ttl_ms <= SLOW_MS
    assert asked.ttl_ms >= max(1, idle_ttl_ms)
    assert asked.ttl_ms * 1000 >= asked.fill_us


def test_a_refusal_and_a_read_write_nothing(store_server: StoreServer) -> None:
    client = store_server.client
    slow = limit(Rate(1, HOUR), 2)
    run(client, [Charge("k", slow, 2)])
    client.set("bystander", "1")
    before = client.dump("k"), client.pexpiretime("k"), client.info("persistence")["rdb_changes_since_last_save"]
    run(client, [Charge("k", slow, 1)], [Charge("k", slow, 0)], [Charge("other", slow, 0)])
    run(client, [Charge("new", slow, 1), Charge("k", slow, 1)])
    after = client.dump("k"), client.pexpiretime("k"), client.info("persistence")["rdb_changes_since_last_save"]
    assert after == before
    assert client.dbsize() == 2


def test_a_bucket_that_starts_below_the_cost_is_written_once_so_that_it_grows(store: VirtualStore) -> None:
    request = [Charge("k", limit(Rate(1, SECOND), 5, initial=1), 3)]
    assert [store.decide([request], START + now_us) for now_us in (0, SECOND)] == [
        [(Level(1, 0, False),)],
        [(Level(2, 0, False),)],
    ]
    found = store.found("k")
    assert found is not None
    assert (found.bucket.tokens, found.bucket.since_us) == (1, START)
    assert store.decide([request], START + 2 * SECOND) == [(Level(0, 0, True),)]


def test_many_charges_of_one_bucket_in_a_call_are_one_write(store_server: StoreServer) -> None:
    run(store_server.client, *[[Charge("k", DEMO, 1)]] * 8)
    assert store_server.calls("hset") == 1
    assert store_server.calls("hmget") == 1
    assert store_server.calls("pexpire") == 1


def test_a_bucket_takes_at_most_200_bytes(store_server: StoreServer) -> None:
    key = "example:ratelimit:" + 32 * "u"
    run(store_server.client, [Charge(key, DEMO, 1)])
    assert 0 < (store_server.client.memory_usage(key) or 0) <= 200


# -- what is not a bucket ---------------------------------------------------------------------------------------------


def test_a_key_of_another_type_fails_only_its_own_request(store_server: StoreServer) -> None:
    client = store_server.client
    client.set("poisoned", "a string")
    decided = run(
        client,
        [Charge("one", DEMO, 1)],
        [Charge("poisoned", DEMO, 1)],
        [Charge("two", DEMO, 1), Charge("poisoned", DEMO, 1)],
        [Charge("two", DEMO, 1)],
    )
    nine_left = Level(9, 0, True)
    assert decided == [(nine_left,), (None,), (Level(10, 0, True), None), (nine_left,)]
    assert client.get("poisoned") == b"a string"


UNREADABLE = [
    {"tokens": "many"},
    {"tokens": ""},
    {"tokens": "nan"},
    {"tokens": "inf"},
    {"tokens": "1.5"},
    {"since": "yesterday"},
    {"since": "nan"},
    {"since": "inf"},
    {"since": "-1"},
    {"rate": "fast"},
    {"rate": "1/0"},
    {"rate": "0/1"},
    {"rate": "-1/5"},
    {"rate": "1/6000000 "},
]


@pytest.mark.parametrize("garbage", UNREADABLE, ids=str)
def test_a_bucket_with_invalid_fields_is_unreadable_and_not_overwritten(
    store_server: StoreServer, garbage: dict[str, str]
) -> None:
    state = {"tokens": "3", "since": str(store_server.time_us()), "rate": "1/6000000"} | garbage
    for field, text in state.items():
        store_server.client.hset("k", field, text)
    assert run(store_server.client, [Charge("k", DEMO, 1)], [Charge("other", DEMO, 1)]) == [
        (None,),
        (Level(9, 0, True),),
    ]
    assert store_server.client.hgetall("k") == {name.encode(): value.encode() for name, value in state.items()}


@pytest.mark.parametrize("missing", ["tokens", "since", "rate"])
def test_a_bucket_that_lacks_a_field_is_unreadable(store_server: StoreServer, missing: str) -> None:
    state = {"tokens": "3", "since": str(store_server.time_us()), "rate": "1/6000000"}
    del state[missing]
    for field, text in state.items():
        store_server.client.hset("k", field, text)
    assert run(store_server.client, [Charge("k", DEMO, 1)]) == [(None,)]


def test_an_unreadable_shadow_bucket_leaves_the_others_decided(store_server: StoreServer) -> None:
    store_server.client.set("poisoned", "a string")
    (decided,) = run(store_server.client, [Charge("k", DEMO, 1), Charge("poisoned", DEMO, 1, shadow=True)])
    assert decided == (Level(9, 0, True), None)


# -- the language -----------------------------------------------------------------------------------------------------


def test_the_script_uses_only_functions_of_all_lua_versions() -> None:
    code = re.sub(r"--.*", "", SCRIPT)
    assert not re.search(r"table\.(maxn|getn|unpack)|(?<![.\w])unpack\s*\(|loadstring|setfenv|math\.(pow|mod)\b", code)
    assert not re.search(r"//|[&|~]\s*\d|goto\b", code.replace("~=", ""))
    assert "tostring" not in code


def test_the_script_uses_only_declared_keys() -> None:
    calls = re.findall(r"(?:redis\.p?call|on_places)\('(\w+)'(?:, (\S+?)[,)])?", re.sub(r"--.*", "", SCRIPT))
    assert calls[0] == ("TIME", "")
    assert {key for _, key in calls[1:]} == {"KEYS[key]"}
