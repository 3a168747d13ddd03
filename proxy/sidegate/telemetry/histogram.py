"""A histogram whose values are noted at the cost of a list's append, and counted many at a time.

Sorting what was noted and looking up the few bounds in it takes a tenth of what looking up each value takes.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

# From a decision out of memory to an application that takes its time; a bound is the last value that counts below it.
DURATIONS_S = (
    *(0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """Counts values by the first bound that is not below them. `note` is a list's append; whoever notes calls `settle`
    often enough to bound that list.
    """

    __slots__ = ("_bounds", "_counts", "_noted", "_total", "note")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._noted: list[float] = []
        self.note = self._noted.append

    def settle(self) -> None:
        """Count what was noted."""
        noted = self._noted
        noted.sort()
        ends = [0, *(bisect_right(noted, bound) for bound in self._bounds), len(noted)]
        for index, (begin, end) in enumerate(pairwise(ends)):
            self._counts[index] += end - begin
        self._total += sum(noted)
        noted.clear()

    @property
    def total(self) -> float:
        """The sum of all values."""
        self.settle()
        return self._total

    def cumulative(self) -> list[tuple[str, float]]:
        """The buckets as Prometheus wants them: each with all that is not above its bound, `+Inf` the last."""
        self.settle()
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        return list(zip(names, accumulate(self._counts), strict=True))

    def counts(self) -> tuple[int, ...]:
        """How many values fell between each two bounds, the last above them all."""
        self.settle()
        return tuple(self._counts)
