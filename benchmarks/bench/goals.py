"""Sidegate's goals, as ratios of its figures to a peer's in the same run."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.bench import figures
from benchmarks.bench.candidates import COMPILED, NGINX, SIDEGATE, TRAEFIK
from benchmarks.bench.figures import Case, Figures, Read, Sample, Spread
from benchmarks.bench.measure import ALLOWED, REFUSED


class Goal(NamedTuple):
    """`read` of a build's figures, divided by that of `peer`, shall be at most `most`. `build` is a candidate too."""

    words: str
    build: str
    peer: str
    case: Case
    read: Read
    most: float


def _proxy_us(found: Figures) -> float:
    return found.proxy_us


_ALLOWED, _REFUSED = Case(ALLOWED, 32), Case(REFUSED, 32)
GOALS = (
    Goal("CPU of the proxy, allowed", SIDEGATE, NGINX, _ALLOWED, _proxy_us, 1.25),
    Goal("CPU of the proxy, refused", SIDEGATE, NGINX, _REFUSED, _proxy_us, 0.9),
    Goal("CPU of the proxy, allowed", COMPILED, NGINX, _ALLOWED, _proxy_us, 0.95),
    Goal("CPU of the proxy, refused", COMPILED, NGINX, _REFUSED, _proxy_us, 0.7),
    Goal("CPU of the proxy, allowed", COMPILED, SIDEGATE, _ALLOWED, _proxy_us, 0.8),
    Goal("CPU of the proxy, refused", COMPILED, SIDEGATE, _REFUSED, _proxy_us, 0.8),
    Goal("CPU of the proxy, allowed", SIDEGATE, TRAEFIK, _ALLOWED, _proxy_us, 0.45),
    Goal("CPU of the store, allowed", SIDEGATE, NGINX, _ALLOWED, lambda found: found.store_us, 0.7),
    Goal("p99, allowed", SIDEGATE, NGINX, _ALLOWED, lambda found: found.p99_ms, 1.2),
)


def judged(samples: Sequence[Sample]) -> Iterator[tuple[Goal, Spread]]:
    """Each goal whose build and peer were measured, and the paired ratio."""
    for goal in GOALS:
        found = figures.ratio(samples, goal.build, goal.peer, goal.case, goal.read)
        if found is not None:
            yield goal, found
