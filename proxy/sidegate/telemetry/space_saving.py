"""The most frequent keys of a stream, in bounded memory.

Space-Saving (Metwally, Agrawal, El Abbadi, 2005): a new key replaces the least frequent stored key and inherits its
count. A count is never too low and at most `error` too high; a key that makes up more than 1/capacity of the stream is
always stored.
"""

import heapq
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)

CAPACITY = 256
WINDOWS = 5


class RankedKey(NamedTuple, Generic[K]):
    """A key, the upper bound of its count, and the amount by which that may be too high."""

    key: K
    times: int
    error: int


class KeySummary(NamedTuple, Generic[K]):
    """Upper bounds of counts by key, their possible excess, and the upper bound for any key not stored (`missed`)."""

    times: Mapping[K, int]
    errors: Mapping[K, int]
    missed: int

    def first(self, count: int) -> list[RankedKey[K]]:
        """At most `count` keys, most frequent first."""
        times, errors = self.times, self.errors
        keys = heapq.nlargest(count, times, key=lambda key: (times[key] - errors[key], times[key]))
        return [RankedKey(key, times[key], errors[key]) for key in keys]

    def cut(self, count: int) -> "KeySummary[K]":
        """The summary of the `count` most frequent keys; the others count as missed."""
        if count >= len(self.times):
            return self
        kept = {entry.key: entry for entry in self.first(count)}
        left_out = max(times for key, times in self.times.items() if key not in kept)
        times = {key: entry.times for key, entry in kept.items()}
        errors = {key: entry.error for key, entry in kept.items()}
        return KeySummary(times, errors, max(self.missed, left_out))


def joined(summaries: Iterable[KeySummary[K]]) -> KeySummary[K]:
    """Merges summaries of separate streams: no count is too low, and none is too high by more than its error."""
    first, *others = summaries
    times, errors, missed = dict(first.times), dict(first.errors), first.missed
    for each in others:
        if each.missed:  # the upper bound for each key that is not stored there
            times = {key: count + each.missed for key, count in times.items()}
            errors = {key: error + each.missed for key, error in errors.items()}
        for key, count in each.times.items():
            if key in times:
                times[key] += count - each.missed
                errors[key] += each.errors[key] - each.missed
            else:
                times[key], errors[key] = missed + count, missed + each.errors[key]
        missed += each.missed
    return KeySummary(times, errors, missed)


class Sketch(Generic[K]):
    """The keys of one window."""

    __slots__ = ("_capacity", "_counts", "_errors", "_heap", "_order")

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._counts: dict[K, int] = {}
        self._errors: dict[K, int] = {}
        # One entry per key, with a count that may have grown since: updated when it reaches the top.
        self._heap: list[tuple[int, int, K]] = []
        self._order = 0  # breaks ties, since keys need not be comparable

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

    def summary(self) -> KeySummary[K]:
        """All stored keys; valid until the next `add`."""
        full = len(self._counts) >= self._capacity
        return KeySummary(self._counts, self._errors, min(self._counts.values()) if full else 0)

    def _make_room(self) -> int:
        """Drop the least frequent key; returns its count."""
        while True:
            noted, order, key = self._heap[0]
            count = self._counts[key]
            if count == noted:
                heapq.heappop(self._heap)
                del self._counts[key], self._errors[key]
                return count
            heapq.heapreplace(self._heap, (count, order, key))


class RecentKeys(Generic[K]):
    """The most frequent keys of the last WINDOWS windows, including the current one."""

    def __init__(self) -> None:
        self._windows: deque[Sketch[K]] = deque([Sketch()], maxlen=WINDOWS)
        self._past: KeySummary[K] = KeySummary({}, {}, 0)
        self.add = self._windows[-1].add

    def next_window(self) -> None:
        """Begin another window and drop the oldest."""
        self._windows.append(Sketch())
        self._past = joined(each.summary() for each in list(self._windows)[:-1])
        self.add = self._windows[-1].add

    def summary(self) -> KeySummary[K]:
        """All stored keys."""
        return joined([self._past, self._windows[-1].summary()])
