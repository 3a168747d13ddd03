"""Counts the proxies that share each limit: each announces itself in one sorted set of the store.

An entry is the proxy's name with the time (the store's clock) of its last renewal. Each announcement drops entries that
are older than ENTRY_LIFE_S; a proxy that stops removes its own. A higher count applies at once. A lower one applies
after counts without a gap were lower for LOWER_AFTER_S: a store that lost its data has no entries until every proxy has
announced itself again.

Proxies that start together before an outage have counted 1, 2, 3 … of each other. Until others have had the time to
count it, ANNOUNCE_EVERY_S after its first count, a proxy that is the k-th takes a share of 1/(k·(k+1)): over any number
of such proxies these add up to less than one.
"""

import secrets
from collections.abc import Callable

from sidegate.store.protocol import Command, Store

ANNOUNCE_EVERY_S = 1.0
# A proxy that is cut off from the store uses its share while the others count on: for so long they still count it. One
# that has crashed makes the shares of the others smaller for as long.
ENTRY_LIFE_S = 60.0
LOWER_AFTER_S = 5.0
# Counts further apart than this are not consecutive: the store was away in between.
_LONGEST_GAP_S = 3.0

# Entries with a time in the future were written before the clock stepped back.
ANNOUNCE_SCRIPT = """
local time = redis.call('TIME')
local now, life = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[2])
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - life))
redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('(%.0f', now + life), '+inf')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
"""


class Replicas:
    """This proxy's entry, and the count of all. `fixed` is the configured count (`store.replicas`).

    `floor` is the lowest count that applies: the workers of this sidecar, or what a sibling of this worker has counted.
    """

    def __init__(self, store: Store, fixed: int | None, *, floor: int = 1, known: int = 0) -> None:
        self._store = store
        self._name = secrets.token_hex(8)
        self._floor = floor
        self._left = False
        self._last_s = 0.0
        self._lower: tuple[float, int] | None = None  # since when counts are lower, and the highest of them
        self._first_s: float | None = None  # when this proxy was first counted
        self._settled = known > 0
        self.seen = known
        self.fixed = fixed

    @property
    def count(self) -> int:
        """How many proxies share each limit; more than were seen until all of them can have seen this one."""
        return self.fixed or max(self._floor, self.seen if self._settled else self.seen * (self.seen + 1))

    @property
    def _key(self) -> str:
        return f"{self._store.key_prefix}proxies"  # not a bucket's name: those have a colon behind the policy

    def announce(self, now_s: float, then: Callable[[object], None]) -> None:
        """Renew this proxy's entry and count all; `then` receives the reply."""
        if self._left:
            then(None)
            return
        key = self._key
        command: Command = ("EVAL", ANNOUNCE_SCRIPT, 1, key, self._name, int(ENTRY_LIFE_S * 1000))

        def counted(reply: object) -> None:
            if type(reply) is int and reply > 0:
                self.note(reply, now_s)
            then(reply)

        self._store.command(key, command, counted)

    def leave(self, then: Callable[[object], None]) -> None:
        """Mark this proxy's entry as expired, so that the others' next count drops it; `then` receives the reply."""
        self._left = True
        key = self._key
        self._store.command(key, ("ZADD", key, 0, self._name), then)

    def note(self, count: int, now_s: float) -> None:
        """Record one count."""
        consecutive = now_s - self._last_s <= _LONGEST_GAP_S
        self._last_s = now_s
        if self._first_s is None:
            self._first_s = now_s
        self._settled = self._settled or now_s - self._first_s >= ANNOUNCE_EVERY_S
        if count >= self.seen:
            self.seen, self._lower = count, None
        elif self._lower is None or not consecutive:
            self._lower = now_s, count
        else:
            since_s, highest = self._lower[0], max(self._lower[1], count)
            self._lower = since_s, highest
            if now_s - since_s >= LOWER_AFTER_S:
                self.seen, self._lower = highest, None
