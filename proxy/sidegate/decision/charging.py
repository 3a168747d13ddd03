"""One script call: the requests of a batch, decided in order at one moment. The twin of `store/redis/bucket.lua`.

Each request is charged on all its buckets or on none. A refused request writes nothing, with exceptions, each once: a
new bucket below the cost is written so that it begins to grow, and so is one with another rate, with a `since_us` in
the future, or with holds that have been taken; leases that have ended are dropped, and those that a clock stepping back
has put further ahead than a lease lasts end in that time. Shadow charges neither refuse nor change what others are
charged, and are charged only when the request passes. DEBIT, SETTLE, UNBOOK, LEAVE and RENEW never refuse and take
effect in any case.
"""

from collections.abc import Iterable, MutableMapping, Sequence

from sidegate.decision.bucket import (
    HOLD_EPOCH_US,
    LEASE_US,
    MOST_DEBT_BURSTS,
    Bucket,
    Charge,
    ChargeKind,
    Level,
    Limit,
    Places,
    is_ahead,
    settle,
)

_OF_PLACES = frozenset({ChargeKind.PLACE, ChargeKind.LEAVE, ChargeKind.RENEW})
_AT_ONE_MOMENT = frozenset({ChargeKind.HOLD, ChargeKind.BOOK})


def decide(
    requests: Iterable[Sequence[Charge]],
    stored: MutableMapping[str, Bucket],
    now_us: int,
    places: MutableMapping[str, Places] | None = None,
) -> list[tuple[Level, ...]]:
    """Decide `requests` in order at one moment: each is charged on all its buckets or on none.

    Reads and writes `stored`, and `places` of requests under way, as the script reads and writes the store. A bucket
    asked for under two limits (a reload fell between the requests) is settled to the first of them.
    """
    call = _Call(stored, {} if places is None else places, now_us)
    return [call.decide(charges) for charges in requests]


def passed(charges: Sequence[Charge], levels: Sequence[Level]) -> bool:
    """Whether the request passes: every charge that may refuse had its cost."""
    return all(level.enough or not charge.may_refuse for charge, level in zip(charges, levels, strict=True))


def undoing(charge: Charge, level: Level) -> Charge | None:
    """The charge that takes back one that passed and left this level; None for a plain one.

    A booking comes back only where nothing was charged after it.
    """
    match charge.kind:
        case ChargeKind.HOLD:
            return charge.as_kind(ChargeKind.SETTLE, (0, level.at_us))
        case ChargeKind.BOOK:
            return charge.as_kind(ChargeKind.UNBOOK, (level.tokens, level.at_us - level.age_us))
        case ChargeKind.PLACE:
            return charge.as_kind(ChargeKind.LEAVE, charge.detail)
        case _:
            return None


class _Call:
    """The buckets that a call has read, as they stand at its moment; `_under` is the limit that each was settled to."""

    def __init__(self, stored: MutableMapping[str, Bucket], places: MutableMapping[str, Places], now_us: int) -> None:
        self._stored = stored
        self._places = places
        self._now_us = now_us
        self._buckets: dict[str, Bucket] = {}
        self._under: dict[str, Limit] = {}

    def decide(self, charges: Sequence[Charge]) -> tuple[Level, ...]:
        for key, limit in ((charge.key, charge.limit) for charge in charges if charge.kind not in _OF_PLACES):
            if key not in self._buckets:
                self._buckets[key] = settle(self._stored.get(key), limit, self._now_us)
                self._under[key] = limit
        passes = all(self._suffices(charge) for charge in charges if charge.may_refuse)
        return tuple([self._charge(charge, passes=passes) for charge in charges])

    def _charge(self, charge: Charge, *, passes: bool) -> Level:
        if charge.kind in _OF_PLACES:
            return self._place(charge, passes=passes)
        key, now_us = charge.key, self._now_us
        before, enough = self._buckets[key], self._suffices(charge)
        after = self._after(charge, before, passes=passes and enough)
        if after != before or (charge.cost and self._must_be_written(key, before, enough=enough)):
            self._buckets[key] = self._stored[key] = after
        age_us = max(now_us, after.since_us) - after.since_us
        return Level(after.available, age_us, enough, now_us if charge.kind in _AT_ONE_MOMENT else 0)

    def _after(self, charge: Charge, bucket: Bucket, *, passes: bool) -> Bucket:
        """The bucket after the charge; `passes`: the request does, and this charge finds its cost."""
        tokens, cost = bucket.tokens, charge.cost
        match charge.kind:
            case ChargeKind.TAKE | ChargeKind.BOOK if passes:
                return bucket._replace(tokens=tokens - cost)
            case ChargeKind.HOLD if passes and cost:
                epoch = self._now_us // HOLD_EPOCH_US
                return bucket._replace(held=_with(bucket.held, epoch, cost))
            case ChargeKind.DEBIT:
                return bucket._replace(tokens=tokens - max(0, min(bucket.available, cost)))
            case ChargeKind.SETTLE:
                return self._settled(charge, bucket)
            case ChargeKind.UNBOOK if self._is_as_booked(charge):
                return bucket._replace(tokens=min(self._under[charge.key].burst, tokens + cost))
            case _:
                return bucket

    def _settled(self, charge: Charge, bucket: Bucket) -> Bucket:
        final, moment_us = map(int, charge.detail)
        epoch = moment_us // HOLD_EPOCH_US
        held, taken = bucket.held, max(0, final - charge.cost)
        if dict(held).get(epoch, 0) >= charge.cost:
            held, taken = _with(held, epoch, -charge.cost), final
        least = -MOST_DEBT_BURSTS * self._under[charge.key].burst
        return bucket._replace(tokens=max(bucket.tokens - taken, min(bucket.tokens, least)), held=held)

    def _is_as_booked(self, charge: Charge) -> bool:
        """Whether nothing was charged after the booking: the stored bucket is the one that it left."""
        stored = self._stored.get(charge.key)
        return stored is not None and (stored.tokens, stored.since_us, stored.rate) == (
            *charge.detail,
            self._under[charge.key].rate,
        )

    def _suffices(self, charge: Charge) -> bool:
        if charge.kind is ChargeKind.PLACE:
            return not charge.cost or len(self._standing(charge.key)) < charge.limit.burst
        bucket, rate = self._buckets[charge.key], charge.limit.rate
        missing = charge.cost - bucket.available
        if missing <= 0 or not charge.cost:
            return True
        age_us = max(self._now_us, bucket.since_us) - bucket.since_us
        # Doubles on purpose: the same operations in the same order as the script.
        return charge.kind is ChargeKind.BOOK and missing * rate.period_us / rate.tokens - age_us <= int(
            charge.detail[0]
        )

    def _must_be_written(self, key: str, settled: Bucket, *, enough: bool) -> bool:
        """Whether a bucket must be written without a charge, since it would never begin to grow otherwise."""
        stored = self._stored.get(key)
        if stored is None:
            return not enough
        return stored.rate != settled.rate or stored.held != settled.held or is_ahead(stored, self._now_us)

    # Requests under way

    def _place(self, charge: Charge, *, passes: bool) -> Level:
        if charge.kind is not ChargeKind.PLACE or charge.cost:
            self._tidy(charge.key)
        leases, lease = self._standing(charge.key), str(charge.detail[0]) if charge.detail else ""
        enough = self._suffices(charge) if charge.kind is ChargeKind.PLACE else True
        if charge.kind is ChargeKind.LEAVE:
            leases.pop(lease, None)
        elif charge.kind is ChargeKind.RENEW or (passes and enough and charge.cost):
            leases[lease] = self._now_us + LEASE_US
        if charge.kind is not ChargeKind.PLACE or (passes and enough and charge.cost):
            self._places[charge.key] = Places(leases)
        return Level(charge.limit.burst - len(leases) if charge.kind is ChargeKind.PLACE else 0, 0, enough)

    def _tidy(self, key: str) -> None:
        """Drop leases that have ended; let those end in time that a clock stepping back has put further ahead."""
        latest_us = self._now_us + LEASE_US
        self._places[key] = Places({lease: min(until_us, latest_us) for lease, until_us in self._standing(key).items()})

    def _standing(self, key: str) -> dict[str, int]:
        """The leases of a bucket that stand."""
        found = self._places.get(key)
        leases = found.leases if found else {}
        return {lease: until_us for lease, until_us in leases.items() if until_us > self._now_us}


def _with(held: Sequence[tuple[int, int]], epoch: int, cost: int) -> tuple[tuple[int, int], ...]:
    """The sums of held costs with one more cost, or less it."""
    sums = dict(held)
    sums[epoch] = sums.get(epoch, 0) + cost
    return tuple(sorted((at, total) for at, total in sums.items() if total))
