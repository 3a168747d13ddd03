"""Two stores with a clock set by the test: the shipped script on a real server, and its reference in Python."""

import json
from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import redis
from sidegate.decision.bucket import Bucket, Charge, Level, Limit, Places, Rate
from sidegate.decision.charging import decide
from sidegate.store.redis.batch import Batch
from sidegate.store.redis.script import SCRIPT

# The two lines of the script that depend on real time, and what stands in their places here: the clock is the test's,
# and a bucket expires an hour later, so that none is gone while a test reads it. All else is the shipped script.
READS_TIME = "local time = redis.call('TIME')"
GIVEN_TIME = "local time = cjson.decode(ARGV[#ARGV])"
SETS_EXPIRY = "redis.call('PEXPIRE', KEYS[key], limits[at + 6])"
LATER_MS = 3_600_000
SETS_LATER_EXPIRY = f"redis.call('PEXPIRE', KEYS[key], limits[at + 6] + {LATER_MS})"
assert SCRIPT.count(READS_TIME) == SCRIPT.count(SETS_EXPIRY) == 1
VIRTUAL_SCRIPT = SCRIPT.replace(READS_TIME, GIVEN_TIME).replace(SETS_EXPIRY, SETS_LATER_EXPIRY)

# A year in 2023: microseconds of a real clock's size.
START = 1_700_000_000_000_000

Request = Sequence[Charge]
Decided = tuple[Level | None, ...]


# Redis goes on with its clock within a transaction; Valkey does not.
SLOW_MS = 3000


class Stored(NamedTuple):
    """A bucket as found in the store, and how long it will stay there."""

    bucket: Bucket
    ttl_ms: int


class VirtualStore(Protocol):
    """A store at any moment of a clock that the test moves. Buckets expire by that clock."""

    def decide(self, requests: Sequence[Request], now_us: int) -> list[Decided]: ...

    def found(self, key: str) -> Stored | None: ...


class ReferenceStore:
    """decision/charging.py over a dict."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}
        self._expiry: dict[str, tuple[int, int]] = {}
        self._places: dict[str, Places] = {}

    def decide(self, requests: Sequence[Request], now_us: int) -> list[Decided]:
        for key in [key for key, (_, due_us) in self._expiry.items() if due_us <= now_us]:
            del self._buckets[key], self._expiry[key]
        before = dict(self._buckets)
        decided = decide(requests, self._buckets, now_us, self._places)
        settled_to: dict[str, Limit] = {}
        for charge in (charge for request in requests for charge in request):
            settled_to.setdefault(charge.key, charge.limit)
        for key, limit in settled_to.items():
            if self._buckets.get(key) is not before.get(key):  # written, if only with what it held
                self._expiry[key] = limit.ttl_ms, now_us + limit.ttl_ms * 1000
        return list(decided)

    def leases(self, key: str, now_us: int) -> dict[str, int]:
        """Until when each lease of a bucket stands."""
        found = self._places.get(key, Places({})).leases
        return {lease: until_us for lease, until_us in found.items() if until_us > now_us}

    def found(self, key: str) -> Stored | None:
        bucket = self._buckets.get(key)
        return None if bucket is None else Stored(bucket, self._expiry[key][0])


class ScriptStore:
    """The script on a real server. Nothing really expires; a bucket whose time has come is deleted before a call."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._sha = client.script_load(VIRTUAL_SCRIPT)
        self._ttl_ms: dict[str, int] = {}
        self._due_us: dict[str, int] = {}

    def decide(self, requests: Sequence[Request], now_us: int) -> list[Decided]:
        batch: Batch[None] = Batch()
        for request in requests:
            batch.add(request, None)
        number, *rest = batch.arguments()
        keys = [str(key) for key in rest[: int(number)]]
        transaction = self._client.pipeline(transaction=True)
        if gone := [key for key, due_us in self._due_us.items() if due_us <= now_us]:
            transaction.delete(*gone)
            for key in gone:
                del self._due_us[key], self._ttl_ms[key]
        time = json.dumps([str(now_us // 1_000_000), str(now_us % 1_000_000)])
        transaction.evalsha(self._sha, int(number), *rest, time)
        for key in keys:
            transaction.pttl(key)
            transaction.persist(key)
        replies = transaction.execute()[bool(gone) :]
        limits = [charge.limit for request in requests for charge in request]
        for key, left_ms in zip(keys, (left - LATER_MS for left in replies[1::2]), strict=True):
            if left_ms > -SLOW_MS:  # written just now: what was set, less what the server took to answer
                ttl_ms = min(
                    (limit.ttl_ms for limit in limits if 0 <= limit.ttl_ms - left_ms <= SLOW_MS), default=left_ms
                )
                self._ttl_ms[key], self._due_us[key] = ttl_ms, now_us + ttl_ms * 1000
        return [levels for _, levels in batch.deliver(replies[0])]

    def found(self, key: str) -> Stored | None:
        state = {str(name, "ascii"): str(value, "ascii") for name, value in read(self._client, key).items()}
        if not state:
            return None
        assert set(state) - {"held", "returned"} == {"tokens", "since", "rate"}
        tokens, period_us = state["rate"].split("/")
        held = [pair.split(":") for pair in state.get("held", "").split(",") if pair]
        costs = tuple((int(epoch), int(cost)) for epoch, cost in held)
        bucket = Bucket(int(state["tokens"]), int(state["since"]), Rate(int(tokens), int(period_us)), costs)
        return Stored(bucket, self._ttl_ms[key])

    def leases(self, key: str, now_us: int) -> dict[str, int]:
        """Until when each lease of a bucket stands."""
        found = cast(list[tuple[bytes, float]], self._client.zrange(key, 0, -1, withscores=True))
        return {lease.decode(): int(until_us) for lease, until_us in found if until_us > now_us}


def read(client: redis.Redis, key: str) -> dict[bytes, bytes]:
    """A hash as stored."""
    return cast(dict[bytes, bytes], client.hgetall(key))  # redis-py cannot know that nothing is decoded


def allowed(request: Request, decided: Decided) -> bool:
    """Whether a request passed."""
    return all(
        not charge.may_refuse or (level and level.enough) for charge, level in zip(request, decided, strict=True)
    )
