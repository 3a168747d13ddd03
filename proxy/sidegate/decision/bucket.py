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

Costs that an answer settles are *held*: not yet taken from `tokens`, and not available to others. They are summed by
the span of the store's clock in which they were held (HOLD_EPOCH_US). Settling a hold ends it and takes the final cost,
which may leave less than zero: a debt that growth pays. A hold that is not settled within one to two spans (its sidecar
has crashed, or its answer takes that long) is taken; its settlement then takes what exceeds it, and gives nothing back.
As `tokens` grow the same whether costs are held or not, giving a hold back never adds more than if it had not been.

A booking takes its cost ahead of growth, so that `tokens` fall below zero; the request departs once they are zero.

The bound, for any interval in which the clock advances by T in all: admitted cost <= burst + rate * T. Of settled costs
it holds for what was held, plus what answers charged above it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from functools import partial
from math import ceil
from typing import NamedTuple

# Largest integer up to which a Lua number (IEEE 754 double) holds every integer.
EXACT = 2**53
MAX_BURST = 1_000_000_000
# A step back of the store's clock that a bucket waits out. Clocks that are kept by NTP slew or step by less.
TOLERATED_STEP_US = 1_000_000
# Holds of one such span are summed; those of earlier spans than the last one are taken as charged.
HOLD_EPOCH_US = 120_000_000
# A bucket owes at most this many bursts: more is forgiven, so that all products stay within EXACT.
MOST_DEBT_BURSTS = 100
# How long a place stays taken without a renewal.
LEASE_US = 10_000_000
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
    `idle_ttl_ms` is how long an idle bucket stays in the store; at least the time to full. `in_flight`: the bucket
    counts requests under way, at most `burst`; its rate is the pause that a refused client is advised.
    """

    rate: Rate
    burst: int
    initial: int
    idle_ttl_ms: int
    in_flight: bool = False

    def wait_us(self, tokens: int, age_us: int) -> int:
        """Microseconds until `tokens` more have grown, when the present one has been growing for `age_us`."""
        if tokens <= 0:
            return 0
        rate = self.rate
        missing = tokens * rate.period_us - age_us * rate.tokens
        return -(-missing // rate.tokens) if missing > 0 else 0

    @property
    def fill_us(self) -> int:
        """Microseconds from empty to full."""
        return self.wait_us(self.burst, 0)

    @property
    def ttl_ms(self) -> int:
        """Expiry of a stored bucket: `idle_ttl_ms`, or the time to full and a millisecond where that is longer."""
        return max(self.idle_ttl_ms, ceil(self.fill_us / 1000) + 1)


def places_limit(most: int) -> Limit:
    """The limit of a bucket that counts at most so many requests under way."""
    return Limit(Rate(1, 1_000_000), most, most, LEASE_US // 1000, in_flight=True)


class Bucket(NamedTuple):
    """A stored bucket: `tokens` whole tokens at `since_us` of the store's clock, growing at `rate`.

    `held` are the sums of costs held, by epoch, in order.
    """

    tokens: int
    since_us: int
    rate: Rate
    held: tuple[tuple[int, int], ...] = ()

    @property
    def available(self) -> int:
        """Tokens that are not held."""
        return self.tokens - sum(cost for _, cost in self.held)


class Places(NamedTuple):
    """A stored bucket of requests under way: until when (µs of the store's clock) each lease stands unrenewed."""

    leases: Mapping[str, int]


class ChargeKind(IntEnum):
    """What a charge does, as the script numbers it. TAKE, HOLD, BOOK and PLACE refuse where they do not suffice.

    `Charge.detail` holds: for BOOK the longest wait in µs; for SETTLE the final cost and the moment (µs of the store's
    clock) of its hold; for UNBOOK the tokens that the booking left and the moment since when; for PLACE, LEAVE and
    RENEW the name of the lease.
    """

    TAKE = 0  # takes the cost
    DEBIT = 1  # takes what is there, up to the cost: charges afterwards what was admitted elsewhere
    HOLD = 2  # holds the cost until it is settled
    SETTLE = 3  # ends a hold of the cost, and takes the final one
    BOOK = 4  # takes the cost ahead of growth
    UNBOOK = 5  # gives back a booking of the cost, unless the bucket was charged after it
    PLACE = 6  # takes a place
    LEAVE = 7  # frees a place
    RENEW = 8  # keeps a place taken


_BOOK = ChargeKind.BOOK


REFUSING = frozenset({ChargeKind.TAKE, ChargeKind.HOLD, ChargeKind.BOOK, ChargeKind.PLACE})


class Charge(NamedTuple):
    """A charge of `cost` tokens on one bucket. A cost of 0 reads the level. A shadow charge never refuses."""

    key: str
    limit: Limit
    cost: int
    shadow: bool = False
    kind: ChargeKind = ChargeKind.TAKE
    detail: tuple[int | str, ...] = ()

    @property
    def may_refuse(self) -> bool:
        """Whether the request is refused where this charge does not find its cost."""
        return not self.shadow and self.kind in REFUSING

    def as_kind(self, kind: ChargeKind, detail: tuple[int | str, ...]) -> "Charge":
        """The charge with another kind and detail; takes half the time of `_replace`."""
        return Charge(self.key, self.limit, self.cost, self.shadow, kind, detail)

    @property
    def longest_wait_us(self) -> int:
        """How long the request may wait for its tokens."""
        return int(self.detail[0]) if self.kind is ChargeKind.BOOK else 0

    def retry_us(self, level: "Level") -> int:
        """Microseconds until the charge would be accepted, at this level."""
        wait_us = self.limit.wait_us(self.cost - level.tokens, level.age_us)
        return max(0, wait_us - self.longest_wait_us) if self.kind is _BOOK else wait_us


class Level(NamedTuple):
    """The level of a bucket after a decision: whole `tokens`, and how long the next one has been growing (µs).

    `tokens` are below zero after a booking, or in debt; held costs are not part of them. `enough`: whether the bucket
    had the cost. It may still be uncharged, if another bucket of the request refused. `at_us`: the moment of the
    decision, for HOLD and BOOK.
    """

    tokens: int
    age_us: int
    enough: bool
    at_us: int = 0


# Makes one of a tuple of all its members: a third of what naming them costs, for those that are made for each request.
leveled = partial(tuple.__new__, Level)


def settle(bucket: Bucket | None, limit: Limit, now_us: int) -> Bucket:
    """The bucket as it stands at `now_us` under `limit`. A bucket unknown to the store starts at `limit.initial`."""
    if bucket is None:
        return Bucket(limit.initial, now_us, limit.rate)
    return _with_old_holds_taken(_grown(bucket, limit, now_us), bucket.held, now_us)


def _grown(bucket: Bucket, limit: Limit, now_us: int) -> Bucket:
    since_us = now_us if is_ahead(bucket, now_us) else bucket.since_us
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


def _with_old_holds_taken(settled: Bucket, held: Sequence[tuple[int, int]], now_us: int) -> Bucket:
    """The bucket with its holds. Those of another time than this epoch and its neighbours are taken."""
    if not held:
        return settled
    present = now_us // HOLD_EPOCH_US
    young = tuple(pair for pair in held if abs(pair[0] - present) <= 1)
    old = sum(cost for epoch, cost in held if abs(epoch - present) > 1)
    return settled._replace(tokens=settled.tokens - old, held=young)


def is_ahead(stored: Bucket, now_us: int) -> bool:
    """Whether the clock has stepped back too far to wait until it has caught up with the bucket."""
    return stored.since_us > now_us + TOLERATED_STEP_US
