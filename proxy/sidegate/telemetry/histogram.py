"""A histogram that records a value with one list append and counts recorded values in bulk.

Sorting the recorded values and looking up the few bounds among them costs a tenth of looking up each value.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

from prometheus_client.samples import Exemplar

# Upper bounds (inclusive), from a decision made in memory to a slow application.
DURATIONS_S = (
    *(0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """Counts values per bucket. `note` appends one value; call `settle` often enough to bound the list of values."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_noted", "_total", "note")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._exemplars: dict[int, Exemplar] = {}
        self._noted: list[float] = []
        self.note = self._noted.append

    def settle(self) -> None:
        """Count the values noted since the last call."""
        noted = self._noted
        noted.sort()
        ends = [0, *(bisect_right(noted, bound) for bound in self._bounds), len(noted)]
        for index, (begin, end) in enumerate(pairwise(ends)):
            self._counts[index] += end - begin
        self._total += sum(noted)
        noted.clear()

    @property
    def total(self) -> float:
        """Sum of all values."""
        self.settle()
        return self._total

    def exemplify(self, value: float, labels: dict[str, str]) -> None:
        """Keep a value, which is also noted, as the exemplar of its bucket."""
        self._exemplars[bisect_left(self._bounds, value)] = Exemplar(labels, value)

    def cumulative(self) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
        """Prometheus buckets: upper bound, number of values up to it, exemplar if any; the last bound is `+Inf`."""
        self.settle()
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        exemplars = self._exemplars
        return [
            (name, count, exemplars[index]) if index in exemplars else (name, count)
            for index, (name, count) in enumerate(zip(names, accumulate(self._counts), strict=True))
        ]

    def counts(self) -> tuple[int, ...]:
        """Number of values per bucket; the last bucket has no upper bound."""
        self.settle()
        return tuple(self._counts)


def quantile(counts: Sequence[int], q: float, bounds: Sequence[float] = DURATIONS_S) -> float | None:
    """Estimate of the `q` quantile, linear within its bucket as PromQL's histogram_quantile; None without values.

    A quantile in the last bucket, which has no upper bound, is reported as the highest bound.
    """
    rank = q * sum(counts)
    if not rank:
        return None
    below = 0
    for index, count in enumerate(counts[: len(bounds)]):
        if count and below + count >= rank:
            lower = bounds[index - 1] if index else 0.0
            return lower + (bounds[index] - lower) * (rank - below) / count
        below += count
    return bounds[-1]
