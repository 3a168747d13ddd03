"""Whether something grows: the slope of a straight line through samples. Pure."""

from collections.abc import Sequence
from typing import NamedTuple


class Sample(NamedTuple):
    """Resources of a process at one moment: resident memory in MiB, open files."""

    at_s: float
    rss_mib: float
    files: int


def slope_per_hour(points: Sequence[tuple[float, float]]) -> float:
    """Least squares through (seconds, value); 0 where there are too few points for a line."""
    count = len(points)
    middle_s, middle = (sum(point[axis] for point in points) / max(count, 1) for axis in (0, 1))
    spread = sum((at_s - middle_s) ** 2 for at_s, _ in points)
    if not spread:
        return 0.0
    return sum((at_s - middle_s) * (value - middle) for at_s, value in points) / spread * 3600


def settled(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples after the first third, in which caches and pools fill."""
    return samples[len(samples) // 3 :]
