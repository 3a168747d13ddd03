"""The keys that occur most often, in bounded memory whatever occurs.

Space-Saving (Metwally, Agrawal, El Abbadi, 2005): a key that is not held takes the place and the count of the rarest
one that is. A count is never too low, and too high by `error` at most; a key that makes up more than 1/capacity of all
that occurred is surely held.
"""

import heapq
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)

CAPACITY = 256
WINDOWS = 5


class Entry(NamedTuple, Generic[K]):
    """A key, how many times it occurred at most, and by how much that may be too high."""

    key: K
    times: int
    error: int


class Summary(NamedTuple, Generic[K]):
    """Keys, each once, and how often any other may have occurred at most."""

    entries: Sequence[Entry[K]]
    missed: int

    def first(self, count: int) -> "Summary[K]":
        """At most `count` keys, the most frequent first."""
        ordered = sorted(self.entries, key=_surely)
        left_out = [entry.times for entry in ordered[count:]]
        return Summary(ordered[:count], max([self.missed, *left_out]))


def _surely(entry: Entry[K]) -> tuple[int, int]:
    return entry.error - entry.times, -entry.times


def joined(summaries: Sequence[Summary[K]]) -> Summary[K]:
    """One summary of what several count apart: no count is too low, and none too high by more than its error."""
    least = sum(each.missed for each in summaries)
    times: dict[K, int] = {}
    errors: dict[K, int] = {}
    for entries, missed in summaries:
        for key, count, error in entries:
            times[key] = times.get(key, least) + count - missed
            errors[key] = errors.get(key, least) + error - missed
    return Summary([Entry(key, count, errors[key]) for key, count in times.items()], least)


class Sketch(Generic[K]):
    """One window's keys."""

    __slots__ = ("_capacity", "_counts", "_errors", "_heap", "_order")

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._counts: dict[K, int] = {}
        self._errors: dict[K, int] = {}
        # One entry a key, with a count that may have grown since: looked at again when it comes to the top.
        self._heap: list[tuple[int, int, K]] = []
        self._order = 0  # keys themselves need no order

    def add(self, key: K) -> None:
        """Count one occurrence."""
        counts = self._counts
        if key in counts:
            counts[key] += 1
            return
        error = self._make_room() if len(counts) >= self._capacity else 0
        counts[key] = error + 1
        self._errors[key] = error
        self._order += 1
        heapq.heappush(self._heap, (error + 1, self._order, key))

    def entries(self) -> list[Entry[K]]:
        """All that is held, in no order."""
        return [Entry(key, count, self._errors[key]) for key, count in self._counts.items()]

    @property
    def missed(self) -> int:
        """How often a key that is not held may have occurred at most."""
        return min(self._counts.values()) if len(self._counts) >= self._capacity else 0

    def _make_room(self) -> int:
        """Drop the rarest key; returns its count."""
        while True:
            noted, order, key = self._heap[0]
            count = self._counts[key]
            if count == noted:
                heapq.heappop(self._heap)
                del self._counts[key], self._errors[key]
                return count
            heapq.heapreplace(self._heap, (count, order, key))


class Most(Generic[K]):
    """The most frequent keys of the last WINDOWS windows, the present one with them."""

    def __init__(self) -> None:
        self._windows: deque[Sketch[K]] = deque([Sketch()], maxlen=WINDOWS)
        self.add = self._windows[-1].add

    def next_window(self) -> None:
        """Begin another window; the oldest is forgotten."""
        self._windows.append(Sketch())
        self.add = self._windows[-1].add

    def summary(self) -> Summary[K]:
        """All that is held."""
        return joined([Summary(window.entries(), window.missed) for window in self._windows])
