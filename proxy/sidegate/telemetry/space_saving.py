"""The keys that occur most often, in bounded memory whatever occurs.

Space-Saving (Metwally, Agrawal, El Abbadi, 2005): a key that is not held takes the place and the count of the rarest
one that is. A count is never too low, and too high by `error` at most; a key that makes up more than 1/capacity of all
that occurred is surely held.
"""

import heapq
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
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
    """How often keys occurred at most, by how much that may be too high, and how often any other key may have."""

    times: Mapping[K, int]
    errors: Mapping[K, int]
    missed: int

    def first(self, count: int) -> list[Entry[K]]:
        """At most `count` keys, the most frequent first."""
        times, errors = self.times, self.errors
        keys = heapq.nlargest(count, times, key=lambda key: (times[key] - errors[key], times[key]))
        return [Entry(key, times[key], errors[key]) for key in keys]

    def cut(self, count: int) -> "Summary[K]":
        """The same of the `count` most frequent keys; the others count as missed."""
        if count >= len(self.times):
            return self
        kept = {entry.key: entry for entry in self.first(count)}
        left_out = max(times for key, times in self.times.items() if key not in kept)
        times = {key: entry.times for key, entry in kept.items()}
        errors = {key: entry.error for key, entry in kept.items()}
        return Summary(times, errors, max(self.missed, left_out))


def joined(summaries: Iterable[Summary[K]]) -> Summary[K]:
    """One summary of one or more that count apart: no count is too low, and none too high by more than its error."""
    first, *others = summaries
    times, errors, missed = dict(first.times), dict(first.errors), first.missed
    for each in others:
        if each.missed:  # so often may each key have occurred there that is not held there
            times = {key: count + each.missed for key, count in times.items()}
            errors = {key: error + each.missed for key, error in errors.items()}
        for key, count in each.times.items():
            if key in times:
                times[key] += count - each.missed
                errors[key] += each.errors[key] - each.missed
            else:
                times[key], errors[key] = missed + count, missed + each.errors[key]
        missed += each.missed
    return Summary(times, errors, missed)


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

    def summary(self) -> Summary[K]:
        """All that is held, as long as nothing is added."""
        full = len(self._counts) >= self._capacity
        return Summary(self._counts, self._errors, min(self._counts.values()) if full else 0)

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
        self._past: Summary[K] = Summary({}, {}, 0)
        self.add = self._windows[-1].add

    def next_window(self) -> None:
        """Begin another window; the oldest is forgotten."""
        self._windows.append(Sketch())
        self._past = joined(each.summary() for each in list(self._windows)[:-1])
        self.add = self._windows[-1].add

    def summary(self) -> Summary[K]:
        """All that is held."""
        return joined([self._past, self._windows[-1].summary()])
