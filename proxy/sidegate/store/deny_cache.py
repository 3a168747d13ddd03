"""Refuses without a call: a bucket known to lack tokens lacks them until they can have grown.

Exact: other callers only take tokens, so a bucket holds at most what it held when it was last seen plus what grew
since. Growth is counted from the time the call was *sent*, which is before the store read its clock. Only a manual
reset adds tokens sooner, and the end of a hold; MEMORY_S and HOLD_MEMORY_S bound the delay until they take effect.

Pure: `now_s` is time.monotonic, in seconds.
"""

from sidegate.decision.bucket import Charge, ChargeKind, Level, Limit

MEMORY_S = 1.0
# Of a bucket whose tokens others give back, or whose places they free.
HOLD_MEMORY_S = 0.1
# The same level is returned for this long, so that many refusals of one bucket cost one computation. Waits are longer
# by at most this much, and nothing more is admitted.
STEADY_S = 0.01
# Bounds the memory that an attacker with many identities can claim: about 25 MB.
MOST_ENTRIES = 65_536


class _Seen:
    """The last known `level` of a bucket; and the last level returned, for which cost, until when."""

    __slots__ = ("asked_s", "level", "limit", "returned", "returned_cost", "until_s", "until_steady_s")

    def __init__(self, level: Level, limit: Limit, asked_s: float, until_s: float) -> None:
        self.level = level
        self.limit = limit
        self.asked_s = asked_s
        self.until_s = until_s
        self.returned: Level | None = None
        self.returned_cost = 0
        self.until_steady_s = 0.0


class DenyCache:
    """The last known levels of buckets that lacked tokens. The oldest entry is dropped for a new one."""

    def __init__(self, most_entries: int = MOST_ENTRIES) -> None:
        self._seen: dict[str, _Seen] = {}
        self._most_entries = most_entries
        self._forgotten_s = 0.0  # when a bucket was last forgotten
        # Whether a bucket has an entry: cheaper than `lacking`.
        self.knows = self._seen.__contains__

    def __len__(self) -> int:
        return len(self._seen)

    def remember(self, charge: Charge, level: Level, asked_s: float) -> None:
        """Record a bucket that holds less than the charge costs; `level` is from a call sent at `asked_s`."""
        if charge.kind is not ChargeKind.TAKE and asked_s <= self._forgotten_s:
            return  # something of this bucket may have been given back after the call
        wait_s = charge.retry_us(level) / 1e6
        self._seen.pop(charge.key, None)
        if not wait_s:  # it may wait for its tokens
            return
        if len(self._seen) >= self._most_entries:
            del self._seen[next(iter(self._seen))]
        memory_s = MEMORY_S if charge.kind is ChargeKind.TAKE else HOLD_MEMORY_S
        self._seen[charge.key] = _Seen(level, charge.limit, asked_s, asked_s + min(wait_s, memory_s))

    def lacking(self, charge: Charge, now_s: float) -> Level | None:
        """The bucket's level if it is certain to lack the cost now; None where a call is needed."""
        seen = self._seen.get(charge.key)
        if seen is None:
            return None
        if now_s < seen.until_steady_s and seen.returned_cost == charge.cost and seen.limit is charge.limit:
            return seen.returned
        if now_s >= seen.until_s or seen.limit is not charge.limit:
            del self._seen[charge.key]
            return None
        age_us = seen.level.age_us + int((now_s - seen.asked_s) * 1e6) + 1
        rate = charge.limit.rate
        grown = age_us * rate.tokens // rate.period_us
        level = Level(seen.level.tokens + grown, age_us - grown * rate.period_us // rate.tokens, False)
        wait_us = charge.retry_us(level)
        if not wait_us:
            return None
        seen.returned = level
        seen.returned_cost = charge.cost
        # Never beyond the moment at which the level may suffice.
        seen.until_steady_s = min(seen.until_s, now_s + min(STEADY_S, wait_us / 1e6))
        return seen.returned

    def forget(self, key: str, now_s: float) -> None:
        """Drop the entry of one bucket, after a reset, or when something is given back to it."""
        self._seen.pop(key, None)
        self._forgotten_s = now_s

    def clear(self) -> None:
        """Drop all entries, after a change of limits."""
        self._seen.clear()
