"""The store in virtual time: charges buckets as `decision.bucket.decide` does, and forgets them as the store does.

A stored bucket expires `ttl_ms` after it was last written, and then starts at `initial` again. Where `initial` equals
`burst` a full bucket decides as an unknown one, so it need not be kept at all: memory then holds only buckets that are
refilling.

Time is each request's own and may step back (logs are written in the order of completion): the arithmetic lets no
bucket's time run backwards.
"""

from collections.abc import Iterable, Sequence
from heapq import nsmallest

from sidegate.decision.bucket import Bucket, Charge, Level, Limit, settle

# About 0.6 KB each: the most a replay holds at once. Beyond it those nearest to being as good as new are forgotten.
MOST_BUCKETS = 250_000
# Looking for buckets that are as good as new costs a walk over all of them; below this number it is not worth it.
_FIRST_SWEEP = 10_000
# A line this late still finds its bucket as it was.
_LATENESS_US = 60_000_000


class _Stored:
    """A bucket as stored, and what says when it may be forgotten."""

    __slots__ = ("bucket", "limit", "ttl_us", "written_us")

    def __init__(self, limit: Limit, bucket: Bucket, written_us: int) -> None:
        self.limit = limit
        # Where it makes a difference (see the module's text), when an unused bucket expires; else never.
        self.ttl_us = limit.ttl_ms * 1000 if limit.initial != limit.burst else None
        self.bucket = bucket
        self.written_us = written_us

    def as_new_us(self) -> int:
        """From when it decides as a bucket that the store does not know."""
        if self.ttl_us is not None:
            return self.written_us + self.ttl_us
        return self.bucket.since_us + self.limit.wait_us(self.limit.burst - self.bucket.tokens, 0)


class VirtualStore:
    """Buckets of one replay. `forgotten` counts those given up for want of room: each may admit a burst too many."""

    def __init__(self, most_buckets: int = MOST_BUCKETS) -> None:
        self._stored: dict[str, _Stored] = {}
        self._most = most_buckets
        self._sweep_at = min(_FIRST_SWEEP, most_buckets)
        self._last_us = 0
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._stored)

    def decide(self, charges: Sequence[Charge], now_us: int) -> tuple[list[Level], bool]:
        """Charge one request on all its buckets or on none, at its moment: what they hold, and whether it passes.

        Does what `decision.bucket.decide` does, in less time, for what one configuration asks: each bucket at most
        once a request, and always under the same limit.
        """
        stored, passes = self._stored, True
        held: list[tuple[_Stored | None, Bucket]] = []
        for key, limit, cost, shadow, _ in charges:
            entry = stored.get(key)
            if entry is not None and entry.ttl_us is not None and now_us >= entry.written_us + entry.ttl_us:
                del stored[key]
                entry = None
            bucket = settle(entry.bucket if entry else None, limit, now_us)
            held.append((entry, bucket))
            if bucket.tokens < cost and not shadow:
                passes = False
        levels = []
        for (key, limit, cost, _, _), (entry, settled) in zip(charges, held, strict=True):
            bucket, (tokens, since_us, rate) = settled, settled
            enough = tokens >= cost
            if passes and enough and cost:
                bucket = Bucket(tokens - cost, since_us, rate)
                self._write(key, limit, entry, bucket, now_us)
            elif not enough and entry is None:
                self._write(key, limit, entry, bucket, now_us)
            levels.append(Level(bucket.tokens, max(0, now_us - since_us), enough))
        if len(stored) > self._sweep_at:
            self._sweep(min(now_us, self._last_us) - _LATENESS_US)
        self._last_us = now_us
        return levels, passes

    def _write(self, key: str, limit: Limit, entry: _Stored | None, bucket: Bucket, now_us: int) -> None:
        if entry is None:
            self._stored[key] = _Stored(limit, bucket, now_us)
        else:
            entry.bucket = bucket
            entry.written_us = max(now_us, entry.written_us)

    def _sweep(self, before_us: int) -> None:
        """Drop what makes no difference; where that is not enough, a tenth of the rest."""
        self._drop([key for key, entry in self._stored.items() if entry.as_new_us() < before_us])
        surplus = len(self._stored) - self._most * 9 // 10
        if surplus > 0:
            self._drop(nsmallest(surplus, self._stored, key=lambda key: self._stored[key].as_new_us()))
            self.forgotten += surplus
        self._sweep_at = min(self._most, max(_FIRST_SWEEP, 2 * len(self._stored)))

    def _drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            del self._stored[key]
