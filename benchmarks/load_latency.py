"""Latencies in bounded memory: a histogram with logarithmic buckets, its percentiles, and its picture in text."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from math import ceil, log

# Each bucket is this much wider than the one before, so a value read back is off by less than RELATIVE_ERROR.
GROWTH = 1.02
RELATIVE_ERROR = 0.01
# Below a microsecond and above an hour, buckets end: about 1,100 of them at most.
LEAST_S = 1e-6
MOST_S = 3600.0

EIGHTHS = " ▏▎▍▌▋▊▉█"


class Latencies:
    """Counts durations. Memory does not grow with their number."""

    def __init__(self) -> None:
        self.count = 0
        self.longest_s = 0.0
        self._shortest_s = MOST_S
        self._buckets: Counter[int] = Counter()

    def record(self, seconds: float) -> None:
        """Count one duration."""
        self.count += 1
        self.longest_s = max(self.longest_s, seconds)
        self._shortest_s = min(self._shortest_s, seconds)
        self._buckets[int(log(min(max(seconds, LEAST_S), MOST_S) / LEAST_S) / log(GROWTH))] += 1

    def percentile(self, percent: float) -> float:
        """The duration (s) that `percent` of all do not exceed (nearest rank), within RELATIVE_ERROR; 0 of none."""
        rank = max(1, ceil(self.count * percent / 100))
        for value_s, count in self.values():
            rank -= count
            if rank <= 0:
                return value_s
        return 0.0

    def values(self) -> list[tuple[float, int]]:
        """Ascending durations (s), each within RELATIVE_ERROR, and how often each occurred."""
        return [
            (min(max(LEAST_S * GROWTH ** (index + 0.5), self._shortest_s), self.longest_s), self._buckets[index])
            for index in sorted(self._buckets)
        ]


def edges(values: Sequence[tuple[float, int]]) -> list[float]:
    """Upper bounds (s) in steps of 1, 2, 5 that span the durations; empty for none."""
    if not values:
        return []
    steps = [float(f"{digit}e{power}") for power in range(-6, 4) for digit in (1, 2, 5)]
    first, last = bisect_left(steps, values[0][0]), bisect_left(steps, values[-1][0])
    return steps[min(first, len(steps) - 1) : last + 1]


def counts(values: Sequence[tuple[float, int]], upper_s: Sequence[float]) -> list[int]:
    """How many durations each bound takes: those above the bound before it. The last takes all above it, too."""
    found = [0] * len(upper_s)
    for value_s, count in values:
        if upper_s:
            found[min(bisect_left(upper_s, value_s), len(upper_s) - 1)] += count
    return found


def bar(share: float, width: int, *, unicode: bool) -> str:
    """A bar of `share` (0 to 1) of `width` columns. A share above zero is always visible."""
    if not unicode:
        return "#" * max(round(share * width), int(share > 0))
    whole, part = divmod(max(round(share * width * 8), int(share > 0)), 8)
    return ("█" * whole + EIGHTHS[part]).rstrip()


def milliseconds(seconds: float) -> str:
    """A duration in ms with three significant digits or so: 0.123, 1.23, 12.3, 123."""
    ms = seconds * 1000
    return f"{ms:.{3 if ms < 1 else 2 if ms < 10 else 1 if ms < 100 else 0}f}"
