"""Refusals that need no question: a bucket known to lack tokens lacks them until they can have grown.

Exact: other callers only take tokens, so a bucket holds at most what it held when it was last seen plus what grew
since. Growth is counted from the moment the question was *sent*, which is before the store looked. Only a reset by hand
puts tokens back sooner; MEMORY_S bounds how long that goes unnoticed.

Pure: `now_s` is the loop's clock, in seconds.
"""

from sidegate.decision.bucket import Charge, Level, Limit

MEMORY_S = 1.0
# A level is told again for so long: whoever makes an answer of it can then make it once. Waits seem longer by that much
# at most, and nothing more is admitted.
STEADY_S = 0.01
# Bounds the memory that an attacker with many identities can claim: about 25 MB.
MOST_ENTRIES = 65_536


class _Seen:
    """A bucket's `level` when it was seen; and what was last told of it, to a charge of which cost, until when."""

    __slots__ = ("asked_s", "level", "limit", "told", "told_cost", "told_until_s", "until_s")

    def __init__(self, level: Level, limit: Limit, asked_s: float, until_s: float) -> None:
        self.level = level
        self.limit = limit
        self.asked_s = asked_s
        self.until_s = until_s
        self.told: Level | None = None
        self.told_cost = 0
        self.told_until_s = 0.0


class DenyCache:
    """What is known of buckets that lacked tokens when last seen. The oldest entry gives way to a new one."""

    def __init__(self, most_entries: int = MOST_ENTRIES) -> None:
        self._seen: dict[str, _Seen] = {}
        self._most_entries = most_entries
        # Whether anything is known of a bucket: cheaper than `lacking`, which then says what it is worth.
        self.knows = self._seen.__contains__

    def __len__(self) -> int:
        return len(self._seen)

    def remember(self, charge: Charge, level: Level, asked_s: float) -> None:
        """Note a bucket that now holds less than the charge costs; `level` answers a question sent at `asked_s`."""
        wait_s = charge.limit.wait_us(charge.cost - level.tokens, level.age_us) / 1e6
        self._seen.pop(charge.key, None)
        if len(self._seen) >= self._most_entries:
            del self._seen[next(iter(self._seen))]
        self._seen[charge.key] = _Seen(level, charge.limit, asked_s, asked_s + min(wait_s, MEMORY_S))

    def lacking(self, charge: Charge, now_s: float) -> Level | None:
        """The bucket's level if it surely cannot pay the charge now; None where the store must be asked."""
        seen = self._seen.get(charge.key)
        if seen is None:
            return None
        if now_s < seen.told_until_s and seen.told_cost == charge.cost and seen.limit is charge.limit:
            return seen.told
        if now_s >= seen.until_s or seen.limit is not charge.limit:
            del self._seen[charge.key]
            return None
        age_us = seen.level.age_us + int((now_s - seen.asked_s) * 1e6) + 1
        rate = charge.limit.rate
        grown = age_us * rate.tokens // rate.period_us
        if seen.level.tokens + grown >= charge.cost:
            return None
        seen.told = Level(seen.level.tokens + grown, age_us - grown * rate.period_us // rate.tokens, False)
        seen.told_cost = charge.cost
        # Never beyond the moment at which the level may suffice.
        wait_s = charge.limit.wait_us(charge.cost - seen.told.tokens, seen.told.age_us) / 1e6
        seen.told_until_s = min(seen.until_s, now_s + min(STEADY_S, wait_s))
        return seen.told

    def forget(self, key: str) -> None:
        """Drop what is known of one bucket (it was reset)."""
        self._seen.pop(key, None)

    def clear(self) -> None:
        """Drop everything (the limits changed)."""
        self._seen.clear()
