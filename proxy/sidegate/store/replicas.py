"""Counts the proxies that share each limit: each announces itself in one sorted set of the store.

An entry is the proxy's name with the time (the store's clock) of its last renewal. Each announcement drops entries that
are older than ENTRY_LIFE_S. A higher count applies at once, a lower one only after two counts in a row: a store that
lost its data has no entries until every proxy has announced itself again.
"""

import secrets
from collections.abc import Callable

from sidegate.store.protocol import Command, Store

ANNOUNCE_EVERY_S = 5.0
ENTRY_LIFE_S = 15.0

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
    """This proxy's entry, and the count of all. `fixed` is the configured count (`store.replicas`)."""

    def __init__(self, store: Store, key_prefix: str, fixed: int | None) -> None:
        self._store = store
        self._key = f"{key_prefix}proxies"  # not a bucket's name: those have a colon behind the policy
        self._name = secrets.token_hex(8)
        self._last = 0
        self.seen = 0
        self.fixed = fixed

    @property
    def count(self) -> int:
        """How many proxies share each limit; 1 before the first count."""
        return self.fixed or max(1, self.seen)

    def announce(self, then: Callable[[object], None]) -> None:
        """Renew this proxy's entry and count all; `then` receives the reply."""
        command: Command = ("EVAL", ANNOUNCE_SCRIPT, 1, self._key, self._name, int(ENTRY_LIFE_S * 1000))

        def counted(reply: object) -> None:
            if type(reply) is int and reply > 0:
                self.note(reply)
            then(reply)

        self._store.command(self._key, command, counted)

    def note(self, count: int) -> None:
        """Record one count."""
        self.seen = max(count, self._last)
        self._last = count
