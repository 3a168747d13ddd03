"""The token bucket: the readable reference of `store/redis/bucket.lua`, and the arithmetic of every header.

Theory of operation. A bucket is whole tokens plus the moment (`since_us`, the store's clock) at which it held exactly
that many. The fraction of the token now growing is therefore kept as *time*, not as a float: with integer costs
`tokens` whole tokens at `since_us` decides exactly as a continuous bucket would, all numbers are integers below 2**53
(Lua's doubles hold them exactly), a stored bucket can be read by a person, and it means the same under any limit.

A rate is `tokens` per `period_us`, in lowest terms. Settling a bucket at `now` credits the whole tokens grown since
`since_us` and moves that moment forward by just the time they took, rounded against the caller by less than 1 µs.

A bucket stores the rate at which its present token grows. After an edit of the limit, the time before the first request
under the new limit is credited at the old rate, and the fraction is carried over: an edit never refills.

The store's clock may step. After a step back of up to TOLERATED_STEP_US, a bucket waits until the clock has caught up,
so that a swinging clock credits no time twice. A `since_us` further in the future counts as now and credits nothing; it
is rewritten at the first request, so that the bucket grows from there. A step forward credits its length, at most one
burst.

The bound, for any interval in which the clock advances by T in all: admitted cost <= burst + rate * T.
"""

from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import ceil
from typing import NamedTuple

# Largest integer up to which a Lua number (IEEE 754 double) holds every integer.
EXACT = 2**53
MAX_BURST = 1_000_000_000
# A step back of the store's clock that a bucket waits out. Clocks that are kept by NTP slew or step by less.
TOLERATED_STEP_US = 1_000_000
# Keeps `elapsed * tokens` of one period, and with it every product below, within EXACT.
MAX_PERIOD_US = 366 * 86_400_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """`tokens` every `period_us` microseconds, in lowest terms."""

    tokens: int
    period_us: int

    @classmethod
    def fitting(cls, tokens: int, period_us: int, burst: int) -> "Rate":
        """The rate itself where `burst * period_us` is exact in a double; else the nearest lower one that is.

        The nearest lower rate differs by less than 1 part in 10**9 for any burst up to MAX_BURST. Raises ValueError
        where no rate above zero fits.
        """
        wanted = Fraction(tokens, period_us)
        if burst * wanted.denominator <= EXACT:
            return cls(wanted.numerator, wanted.denominator)
        for bits in range(52, 8, -1):
            near = (wanted * (1 - Fraction(1, 2**bits))).limit_denominator(EXACT // burst)
            if 0 < near <= wanted:
                return cls(near.numerator, near.denominator)
        raise ValueError(f"a rate of {tokens} per {period_us} µs is too slow for a burst of {burst}")


@dataclass(frozen=True, slots=True)
class Limit:
    """Capacity and rate of one bucket.

    `burst` is the capacity, `initial` the filling of a bucket that is not in the store yet, both in tokens.
    `idle_ttl_ms` is how long an idle bucket stays in the store; at least the time to full.
    """

    rate: Rate
    burst: int
    initial: int
    idle_ttl_ms: int

    def wait_us(self, tokens: int, age_us: int) -> int:
        """Microseconds until `tokens` more have grown, when the present one has been growing for `age_us`."""
        if tokens <= 0:
            return 0
        missing = tokens * self.rate.period_us - age_us * self.rate.tokens
        return max(0, -(-missing // self.rate.tokens))

    @property
    def fill_us(self) -> int:
        """Microseconds from empty to full."""
        return self.wait_us(self.burst, 0)

    @property
    def ttl_ms(self) -> int:
        """Expiry of a stored bucket: `idle_ttl_ms`, or the time to full and a millisecond where that is longer."""
        return max(self.idle_ttl_ms, ceil(self.fill_us / 1000) + 1)


class Bucket(NamedTuple):
    """A stored bucket: `tokens` whole tokens at `since_us` of the store's clock, growing at `rate`."""

    tokens: int
    since_us: int
    rate: Rate


class Charge(NamedTuple):
    """A charge of `cost` tokens on one bucket. A cost of 0 reads the level. A shadow charge never refuses.

    A debit charges afterwards what was admitted elsewhere: it takes the tokens that are there, up to its cost,
    independent of the request's other charges, and never refuses.
    """

    key: str
    limit: Limit
    cost: int
    shadow: bool = False
    debit: bool = False


class Level(NamedTuple):
    """The level of a bucket after a decision: whole `tokens`, and how long the next one has been growing (µs).

    `enough`: whether the bucket had the cost. It may still be uncharged, if another bucket of the request refused.
    """

    tokens: int
    age_us: int
    enough: bool


# Makes one of a tuple of all its members: a third of what naming them costs, for those that are made for each request.
leveled = partial(tuple.__new__, Level)


def settle(bucket: Bucket | None, limit: Limit, now_us: int) -> Bucket:
    """The bucket as it stands at `now_us` under `limit`. A bucket unknown to the store starts at `limit.initial`."""
    if bucket is None:
        return Bucket(limit.initial, now_us, limit.rate)
    since_us = now_us if _is_ahead(bucket, now_us) else bucket.since_us
    now_us = max(now_us, since_us)
    rate = bucket.rate
    room = limit.burst - bucket.tokens
    grown = (now_us - since_us) * rate.tokens
    if grown >= room * rate.period_us:
        return Bucket(limit.burst, now_us, limit.rate)
    tokens, rest = divmod(grown, rate.period_us)
    if rate != limit.rate:
        # Doubles on purpose: the same operations in the same order as the script, less one unit against the caller.
        rest = max(0, int(rest / rate.period_us * limit.rate.period_us) - 1)
    return Bucket(bucket.tokens + tokens, now_us - rest // limit.rate.tokens, limit.rate)


def decide(
    requests: Iterable[Sequence[Charge]], stored: MutableMapping[str, Bucket], now_us: int
) -> list[tuple[Level, ...]]:
    """Decide `requests` in order at one moment: each is charged on all its buckets or on none.

    The reference of one script call: reads and writes `stored` as the script reads and writes the store. A refused
    request writes nothing, with three exceptions, each once: a new bucket below the cost is written so that it begins
    to grow, and so is one with another rate, or with a `since_us` in the future. Shadow charges neither refuse nor
    change what others are charged, and are charged only when the request passes. Debits take what there is in any case.
    A bucket asked for under two limits (a reload fell between the requests) is settled to the first of them.
    """
    held: dict[str, Bucket] = {}
    return [_decide_one(charges, stored, held, now_us) for charges in requests]


def _decide_one(
    charges: Sequence[Charge], stored: MutableMapping[str, Bucket], held: dict[str, Bucket], now_us: int
) -> tuple[Level, ...]:
    for charge in charges:
        if charge.key not in held:
            held[charge.key] = settle(stored.get(charge.key), charge.limit, now_us)
    passes = all(charge.shadow or charge.debit or held[charge.key].tokens >= charge.cost for charge in charges)
    levels = []
    for charge in charges:
        key, cost = charge.key, charge.cost
        bucket = held[key]
        enough = bucket.tokens >= cost
        if charge.debit and cost:
            bucket = held[key] = stored[key] = bucket._replace(tokens=bucket.tokens - min(bucket.tokens, cost))
        elif passes and enough and cost:
            bucket = held[key] = bucket._replace(tokens=bucket.tokens - cost)
            stored[key] = bucket
        elif cost and _must_be_written(stored.get(key), bucket, now_us, enough=enough):
            stored[key] = bucket
        levels.append(Level(bucket.tokens, max(now_us, bucket.since_us) - bucket.since_us, enough))
    return tuple(levels)


def _must_be_written(stored: Bucket | None, settled: Bucket, now_us: int, *, enough: bool) -> bool:
    """Whether a bucket must be written without a charge, since it would never begin to grow otherwise."""
    if stored is None:
        return not enough
    return stored.rate != settled.rate or _is_ahead(stored, now_us)


def _is_ahead(stored: Bucket, now_us: int) -> bool:
    """Whether the clock has stepped back too far to wait until it has caught up with the bucket."""
    return stored.since_us > now_us + TOLERATED_STEP_US


def passed(charges: Sequence[Charge], levels: Sequence[Level]) -> bool:
    """Whether the request passes: every charge but shadows and debits had its cost."""
    return all(level.enough or charge.shadow or charge.debit for charge, level in zip(charges, levels, strict=True))
