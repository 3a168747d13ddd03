"""The store in virtual time: buckets that are charged by `decision.bucket.decide` and forgotten as the store forgets
them.

A stored bucket expires `ttl_ms` after it was last written, and then starts at `initial` again. Where `initial` equals
`burst` a full bucket decides as an unknown one, so it need not be kept at all: memory then holds only buckets that are
refilling.

Time is each request's own and may step back (logs are written in the order of completion): the arithmetic lets no
bucket's time run backwards.
"""

from collections.abc import Sequence
from heapq import nsmallest

from proxy.decision.bucket import Bucket, Charge, Level, decide

# About 0.4 KB each: the most a replay holds at once. Beyond it those nearest to being as good as new are forgotten.
MOST_BUCKETS = 250_000
# Looking for buckets that are as good as new costs a walk over all of them; below this number it is not worth it.
_FIRST_SWEEP = 10_000
# A line this late still finds its bucket as it was.
_LATENESS_US = 60_000_000


class _Buckets(dict[str, Bucket]):
    """Stored buckets that tell which of them were written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def __setitem__(self, key: str, bucket: Bucket) -> None:
        self.written.append(key)
        super().__setitem__(key, bucket)


class VirtualStore:
    """Buckets of one replay. `forgotten` counts those given up for want of room: each may admit a burst too many."""

    def __init__(self, most_buckets: int = MOST_BUCKETS) -> None:
        self._buckets = _Buckets()
        # From when a bucket decides as one the store does not know.
        self._as_new_us: dict[str, int] = {}
        self._most = most_buckets
        self._sweep_at = min(_FIRST_SWEEP, most_buckets)
        self._last_us = 0
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._buckets)

    def decide(self, charges: Sequence[Charge], now_us: int) -> tuple[Level, ...]:
        """Charge one request on all its buckets or on none, at its moment."""
        buckets, as_new_us = self._buckets, self._as_new_us
        for charge in charges:
            if charge.limit.initial != charge.limit.burst and as_new_us.get(charge.key, now_us) < now_us:
                del buckets[charge.key], as_new_us[charge.key]
        (levels,) = decide((charges,), buckets, now_us)
        if buckets.written:
            for charge in charges:
                if charge.key in buckets.written:
                    as_new_us[charge.key] = _as_new_us(buckets[charge.key], charge, now_us)
            buckets.written.clear()
            if len(buckets) > self._sweep_at:
                self._sweep(min(now_us, self._last_us) - _LATENESS_US)
        self._last_us = now_us
        return levels

    def _sweep(self, before_us: int) -> None:
        """Drop what makes no difference; where that is not enough, a tenth of the rest."""
        self._drop([key for key, as_new_us in self._as_new_us.items() if as_new_us < before_us])
        if len(self._buckets) > self._most * 9 // 10:
            surplus = nsmallest(len(self._buckets) - self._most * 9 // 10, self._as_new_us, self._as_new_us.__getitem__)
            self._drop(surplus)
            self.forgotten += len(surplus)
        self._sweep_at = min(self._most, max(_FIRST_SWEEP, 2 * len(self._buckets)))

    def _drop(self, keys: Sequence[str]) -> None:
        for key in keys:
            del self._buckets[key], self._as_new_us[key]


def _as_new_us(bucket: Bucket, charge: Charge, now_us: int) -> int:
    limit = charge.limit
    if limit.initial == limit.burst:
        return bucket.since_us + limit.wait_us(limit.burst - bucket.tokens, 0)
    return max(now_us, bucket.since_us) + limit.ttl_ms * 1000
