"""A store in virtual time: charges buckets as `decision.bucket.decide` does, and expires them as Redis does.

A bucket expires `ttl_ms` after its last write, and then starts at `initial` again. If `initial` equals `burst`, a full
bucket is equivalent to an absent one and need not be kept: memory then holds only buckets that are refilling.

The clock is the latest time of a request so far. Logs are written in the order of completion, so a line may be older
than the one before it; it is then decided at the time of that one, since a store's clock does not run backwards.
"""

from collections.abc import Iterable, Sequence
from heapq import nsmallest

from sidegate.decision.bucket import Bucket, Charge, Level, Limit, settle

# Buckets held at once, about 0.6 KB each. Beyond it, those that are equivalent to a new bucket soonest are dropped.
MOST_BUCKETS = 250_000
# Finding buckets that are equivalent to new ones takes a pass over all; below this number it is not worth it.
_FIRST_SWEEP = 10_000


class _ReplayedBucket:
    """A bucket, and the data that determine when it may be dropped."""

    __slots__ = ("bucket", "limit", "ttl_us", "written_us")

    def __init__(self, limit: Limit, bucket: Bucket, written_us: int) -> None:
        self.limit = limit
        # None if expiry makes no difference (see the module's docstring).
        self.ttl_us = limit.ttl_ms * 1000 if limit.initial != limit.burst else None
        self.bucket = bucket
        self.written_us = written_us

    def as_new_us(self) -> int:
        """Return the time from which it is equivalent to a new bucket."""
        if self.ttl_us is not None:
            return self.written_us + self.ttl_us
        return self.bucket.since_us + self.limit.wait_us(self.limit.burst - self.bucket.tokens, 0)


class VirtualStore:
    """Buckets of one replay. `forgotten` counts those dropped to bound memory: each may admit one burst too much."""

    def __init__(self, most_buckets: int = MOST_BUCKETS) -> None:
        self._stored: dict[str, _ReplayedBucket] = {}
        self._most = most_buckets
        self._sweep_at = min(_FIRST_SWEEP, most_buckets)
        self._clock_us = 0
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._stored)

    def decide(self, charges: Sequence[Charge], now_us: int) -> tuple[list[Level], bool]:
        """Charge one request on all its buckets or on none. Returns the levels after it, and whether it passes.

        Equivalent to `decision.bucket.decide`, but faster: it relies on a bucket occurring once in a request, and
        always with the same limit.
        """
        now_us = self._clock_us = max(now_us, self._clock_us)
        stored, passes = self._stored, True
        held: list[tuple[_ReplayedBucket | None, Bucket]] = []
        for charge in charges:
            entry = stored.get(charge.key)
            if entry is not None and entry.ttl_us is not None and now_us >= entry.written_us + entry.ttl_us:
                del stored[charge.key]
                entry = None
            bucket = settle(entry.bucket if entry else None, charge.limit, now_us)
            held.append((entry, bucket))
            if not charge.shadow and not _suffices(bucket, charge, now_us):
                passes = False
        levels = []
        for charge, (entry, settled) in zip(charges, held, strict=True):
            bucket, enough = settled, _suffices(settled, charge, now_us)
            if passes and enough and charge.cost:
                bucket = Bucket(settled.tokens - charge.cost, settled.since_us, settled.rate)
                self._write(charge, entry, bucket, now_us)
            elif not enough and entry is None:
                self._write(charge, entry, bucket, now_us)
            levels.append(Level(bucket.tokens, now_us - bucket.since_us, enough))
        if len(stored) > self._sweep_at:
            self._sweep(now_us)
        return levels, passes

    def give_back(self, charge: Charge) -> None:
        """Give back what the last request was charged: nothing was charged after it."""
        entry = self._stored.get(charge.key)
        if entry is not None:
            entry.bucket = entry.bucket._replace(tokens=min(charge.limit.burst, entry.bucket.tokens + charge.cost))

    def _write(self, charge: Charge, entry: _ReplayedBucket | None, bucket: Bucket, now_us: int) -> None:
        if entry is None:
            self._stored[charge.key] = _ReplayedBucket(charge.limit, bucket, now_us)
        else:
            entry.bucket = bucket
            entry.written_us = now_us

    def _sweep(self, before_us: int) -> None:
        """Drop buckets equivalent to new ones, and if that is not enough, a tenth of the rest."""
        self._drop([key for key, entry in self._stored.items() if entry.as_new_us() < before_us])
        surplus = len(self._stored) - self._most * 9 // 10
        if surplus > 0:
            self._drop(nsmallest(surplus, self._stored, key=lambda key: self._stored[key].as_new_us()))
            self.forgotten += surplus
        self._sweep_at = min(self._most, max(_FIRST_SWEEP, 2 * len(self._stored)))

    def _drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            del self._stored[key]


def _suffices(bucket: Bucket, charge: Charge, now_us: int) -> bool:
    """Whether the bucket has the cost, or will have it within the longest wait."""
    missing = charge.cost - bucket.tokens
    return missing <= 0 or charge.limit.wait_us(missing, now_us - bucket.since_us) <= charge.longest_wait_us
