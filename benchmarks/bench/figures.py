"""The benchmark's arithmetic: medians, spreads and paired ratios. Pure.

Rounds visit every candidate in turn. A ratio is computed within a round, from measurements seconds apart, and the
median of these ratios is reported, so that other load on the machine affects both sides alike.
"""

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import NamedTuple


class Case(NamedTuple):
    """One scenario: `kind` is a key of measure.KINDS."""

    kind: str
    connections: int


class Figures(NamedTuple):
    """One measurement: requests per second, CPU µs per request of proxy and store, latencies, and memory."""

    rate: float
    proxy_us: float
    store_us: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    rss_mib: float


class Sample(NamedTuple):
    """A measurement with its round, candidate and case. Ratios pair samples of one round."""

    round: int
    candidate: str
    case: Case
    figures: Figures


class Spread(NamedTuple):
    """A median between the lowest and the highest."""

    middle: float
    lowest: float
    highest: float


Read = Callable[[Figures], float]


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    return Spread(median(values), min(values), max(values))


def of(samples: Iterable[Sample], candidate: str, case: Case, read: Read) -> Spread | None:
    """One figure of a candidate over all rounds; None where it was not measured."""
    values = [read(sample.figures) for sample in samples if (sample.candidate, sample.case) == (candidate, case)]
    return spread(values) if values else None


def ratio(samples: Sequence[Sample], over: str, under: str, case: Case, read: Read) -> Spread | None:
    """A figure of `over` divided by that of `under`, paired by round. None where no round has both above zero."""
    above, below = (
        {
            sample.round: read(sample.figures)
            for sample in samples
            if (sample.candidate, sample.case) == (candidate, case)
        }
        for candidate in (over, under)
    )
    ratios = [above[number] / below[number] for number in sorted(above.keys() & below.keys()) if below[number] > 0]
    return spread(ratios) if ratios else None
