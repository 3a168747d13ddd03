"""One script call for all requests of one turn of the event loop: builds its arguments and parses its reply.

Pure: no I/O and no waiting. See bucket.lua for the two JSON arguments and the reply.
"""

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Generic, TypeVar

import orjson

from sidegate.decision.bucket import Charge, Level, Limit, leveled

# A script call blocks the store while it runs; a longer queue is sent as several calls. 256 requests of one bucket take
# about half a millisecond.
LARGEST_BATCH = 256

Waiter = TypeVar("Waiter")

# The number of a call, which its reply repeats: a reply in the place of another one is detected even if both have the
# same shape. Only a proxy between this process and the store could mix them up.
_tags = itertools.count(1)


class BadReply(Exception):
    """The script cannot have sent this reply."""


class Batch(Generic[Waiter]):
    """Requests decided together, in the order of adding; a waiter is the caller's handle of a request."""

    __slots__ = ("_asked", "_charges", "_keys", "_limits", "_tag", "_texts", "_waiting")

    def __init__(self) -> None:
        self._keys: dict[str, int] = {}
        # By identity, which is cheaper than by value; the limit is kept so that its id is not reused.
        self._limits: dict[int, tuple[int, Limit]] = {}
        self._texts: list[str] = []
        self._asked: list[int] = []
        self._waiting: list[tuple[int, Waiter]] = []
        self._charges = 0
        self._tag = next(_tags)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, charges: Sequence[Charge], waiter: Waiter) -> int:
        """Add one request; returns how many there are now."""
        keys, limits, asked = self._keys, self._limits, self._asked
        asked.append(len(charges))
        for charge in charges:
            number = keys.get(charge.key)
            if number is None:
                number = keys[charge.key] = len(keys) + 1
            known = limits.get(id(charge.limit)) or self._new_limit(charge.limit)
            asked += (number, known[0], charge.cost, 2 if charge.debit else 1 if charge.shadow else 0)
        self._waiting.append((len(charges), waiter))
        self._charges += len(charges)
        return len(self._waiting)

    def arguments(self) -> tuple[str | int, ...]:
        """The arguments after the script in EVALSHA and EVAL: number of keys, keys, limits, requests, tag."""
        keys = self._keys
        return (len(keys), *keys, f"[{','.join(self._texts)}]", orjson.dumps(self._asked).decode(), self._tag)

    def deliver(self, reply: object) -> list[tuple[Waiter, tuple[Level | None, ...]]]:
        """Pair each waiter with its levels, in order; None for a bucket that cannot be read.

        Raises BadReply, and pairs nobody, where the reply is not what the script returns for this batch.
        """
        numbers = 2 * self._charges + 1
        if not isinstance(reply, list) or len(reply) != numbers or set(map(type, reply)) != {int}:
            raise BadReply(f"the script's reply is not {numbers} integers")
        if reply[-1] != self._tag:
            raise BadReply("the reply is that of another call")
        pairs: list[tuple[Waiter, tuple[Level | None, ...]]] = []
        position = 0
        for count, waiter in self._waiting:
            end = position + 2 * count
            tokens, age_us = reply[position], reply[position + 1]
            if count == 1 and tokens >= 0 <= age_us:  # the common request: one bucket that had enough
                pairs.append((waiter, (leveled((tokens, age_us, True)),)))
            else:
                pairs.append((waiter, _levels(reply, position, end)))
            position = end
        return pairs

    def waiters(self) -> list[Waiter]:
        """The waiters of this batch, in order."""
        return [waiter for _, waiter in self._waiting]

    def _new_limit(self, limit: Limit) -> tuple[int, Limit]:
        known = self._limits[id(limit)] = (len(self._limits) + 1, limit)
        self._texts.append(_limit_text(limit))
        return known


@lru_cache(1024)
def _limit_text(limit: Limit) -> str:
    n, period_us = limit.rate.tokens, limit.rate.period_us
    return f'"{n}/{period_us}",{n},{period_us},{limit.burst},{limit.initial},{limit.ttl_ms}'


def _levels(numbers: list[int], position: int, end: int) -> tuple[Level | None, ...]:
    if end == position + 2:
        return (_level(numbers[position], numbers[position + 1]),)
    return tuple([_level(numbers[at], numbers[at + 1]) for at in range(position, end, 2)])


def _level(tokens: int, age_us: int) -> Level | None:
    if age_us < 0:
        return None
    return leveled((tokens, age_us, True) if tokens >= 0 else (-1 - tokens, age_us, False))
