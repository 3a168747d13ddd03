"""One script call for all requests of one turn of the event loop: builds its arguments and parses its reply.

Pure: no I/O and no waiting. See bucket.lua for the two JSON arguments and the reply.
"""

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Generic, TypeVar

import orjson

from sidegate.decision.bucket import Charge, ChargeKind, Level, Limit, leveled
from sidegate.store.protocol import BadReply

# The charges of one call, unless a single request has more. A script call blocks the store while it runs: this many
# charges take half a millisecond on one bucket, and 2 ms on as many.
LARGEST_BATCH = 256

Waiter = TypeVar("Waiter")

# What the script replies for a bucket that cannot be read.
UNREADABLE = -(2**53)
_TAKE = ChargeKind.TAKE
# Kinds whose reply has a third number.
_AT_ONE_MOMENT = frozenset({ChargeKind.HOLD, ChargeKind.BOOK})

# The number of a call, which its reply repeats: a reply in the place of another one is detected even if both have the
# same shape. Only a proxy between this process and the store could mix them up.
_tags = itertools.count(1)


class Batch(Generic[Waiter]):
    """Requests decided together, in the order of adding; a waiter is the caller's handle of a request."""

    __slots__ = (
        "_asked",
        "_keys",
        "_limits",
        "_numbers",
        "_tag",
        "_texts",
        "_waiting",
        "charged_us",
        "charges",
        "returnable",
        "returned",
    )

    def __init__(self) -> None:
        self._keys: dict[str, int] = {}
        # By identity, which is cheaper than by value; the limit is kept so that its id is not reused.
        self._limits: dict[int, tuple[int, Limit]] = {}
        self._texts: list[str] = []
        self._asked: list[int | str] = []
        # How many numbers of the reply are a waiter's, and its charges where some have three.
        self._waiting: list[tuple[int, Sequence[Charge] | None, Waiter]] = []
        self._numbers = 1
        self.charges = 0
        self._tag = next(_tags)
        # Whether charges may be given back. Then `deliver` sets the store's clock, and of each bucket, in the order of
        # adding, the tokens given back so far less the costs held.
        self.returnable = False
        self.charged_us = 0
        self.returned: list[int] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def has_room(self, charges: Sequence[Charge]) -> bool:
        """Whether the request belongs into this call: it is the first one, or all charges stay within LARGEST_BATCH."""
        return not self.charges or self.charges + len(charges) <= LARGEST_BATCH

    def add(self, charges: Sequence[Charge], waiter: Waiter) -> None:
        """Add one request."""
        keys, limits, asked = self._keys, self._limits, self._asked
        asked.append(len(charges))
        width, wide = 2 * len(charges), None
        for charge in charges:
            key, limit, cost, shadow, kind, detail = charge
            number = keys.get(key)
            if number is None:
                number = keys[key] = len(keys) + 1
            known = limits.get(id(limit)) or self._new_limit(limit)
            if kind is _TAKE:
                asked += (number, known[0], cost, 1 if shadow else 0)
                continue
            asked += (number, known[0], cost, 2 * int(kind) + shadow, *detail)
            if kind in _AT_ONE_MOMENT:
                width += 1
                wide = charges
        self._waiting.append((width, wide, waiter))
        self._numbers += width
        self.charges += len(charges)

    def arguments(self) -> tuple[str | int, ...]:
        """The arguments after the script in EVALSHA and EVAL: number of keys, keys, limits, requests, tag."""
        keys = self._keys
        words: tuple[str | int, ...]
        words = (len(keys), *keys, f"[{','.join(self._texts)}]", orjson.dumps(self._asked).decode(), self._tag)
        return (*words, 1) if self.returnable else words

    def returned_to(self, key: str) -> int:
        """Tokens that a bucket of a returnable batch had been given back when it was charged, less the costs held."""
        return self.returned[self._keys[key] - 1]

    def deliver(self, reply: object) -> list[tuple[Waiter, tuple[Level | None, ...]]]:
        """Pair each waiter with its levels, in order; None for a bucket that cannot be read.

        Raises BadReply, and pairs nobody, where the reply is not what the script returns for this batch.
        """
        numbers = self._numbers + (1 + len(self._keys) if self.returnable else 0)
        if not isinstance(reply, list) or len(reply) != numbers or set(map(type, reply)) != {int}:
            raise BadReply(f"the script's reply is not {numbers} integers")
        if reply[-1] != self._tag:
            raise BadReply("the reply is that of another call")
        if self.returnable:
            self.charged_us, *self.returned = reply[self._numbers - 1 : -1]
        pairs: list[tuple[Waiter, tuple[Level | None, ...]]] = []
        position = 0
        for width, wide, waiter in self._waiting:
            end = position + width
            levels = _levels(reply, position, end) if wide is None else _wide_levels(reply, position, wide)
            pairs.append((waiter, levels))
            position = end
        return pairs

    def waiters(self) -> list[Waiter]:
        """The waiters of this batch, in order."""
        return [waiter for _, _, waiter in self._waiting]

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


def _wide_levels(numbers: list[int], position: int, charges: Sequence[Charge]) -> tuple[Level | None, ...]:
    levels: list[Level | None] = []
    for charge in charges:
        wide = charge.kind in _AT_ONE_MOMENT
        levels.append(_level(numbers[position], numbers[position + 1], numbers[position + 2] if wide else 0))
        position += 3 if wide else 2
    return tuple(levels)


def _level(tokens: int, age_us: int, at_us: int = 0) -> Level | None:
    if age_us >= 0:
        return leveled((tokens, age_us, True, at_us))
    return None if age_us == UNREADABLE else leveled((tokens, -1 - age_us, False, at_us))
