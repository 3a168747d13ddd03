"""Sidegate's goals, as ratios of its figures to a peer's in the same run."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.bench import figures
from benchmarks.bench.candidates import NGINX, SIDEGATE, TRAEFIK
from benchmarks.bench.figures import Case, Figures, Read, Sample, Spread
from benchmarks.bench.measure import ALLOWED, REFUSED


class Goal(NamedTuple):
    """`read` of Sidegate's figures, divided by that of `peer`, shall be at most `most`."""

    words: str
    peer: str
    case: Case
    read: Read
    most: float


def _proxy_us(found: Figures) -> float:
    return found.proxy_us


_ALLOWED, _REFUSED = Case(ALLOWED, 32), Case(REFUSED, 32)
GOALS = (
    Goal("CPU of the proxy, allowed", NGINX, _ALLOWED, _proxy_us, 1.25),
    Goal("CPU of the proxy, refused", NGINX, _REFUSED, _proxy_us, 0.9),
    Goal("CPU of the proxy, allowed", TRAEFIK, _ALLOWED, _proxy_us, 0.45),
    Goal("CPU of the store, allowed", NGINX, _ALLOWED, lambda found: found.store_us, 0.7),
    Goal("p99, allowed", NGINX, _ALLOWED, lambda found: found.p99_ms, 1.2),
)


def judged(samples: Sequence[Sample]) -> Iterator[tuple[Goal, Spread]]:
    """Each goal whose peer was measured, and the paired ratio."""
    for goal in GOALS:
        found = figures.ratio(samples, SIDEGATE, goal.peer, goal.case, goal.read)
        if found is not None:
            yield goal, found
