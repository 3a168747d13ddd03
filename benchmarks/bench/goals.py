"""What Sidegate is to reach, as ratios of its figure to a peer's; and whether a run showed it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.bench import figures
from benchmarks.bench.candidates import NGINX, SIDEGATE, TRAEFIK
from benchmarks.bench.figures import Case, Read, Sample, Spread
from benchmarks.bench.measure import ALLOWED, REFUSED


class Goal(NamedTuple):
    """`read` of Sidegate's figures over `peer`'s shall be at most `most`."""

    words: str
    peer: str
    case: Case
    read: Read
    most: float


GOALS = (
    Goal("CPU of the proxy, allowed", NGINX, Case(ALLOWED, 32), lambda found: found.proxy_us, 1.0),
    Goal("CPU of the proxy, allowed", TRAEFIK, Case(ALLOWED, 32), lambda found: found.proxy_us, 0.5),
    Goal("CPU of the proxy, refused", NGINX, Case(REFUSED, 32), lambda found: found.proxy_us, 0.6),
    Goal("CPU of the store, allowed", NGINX, Case(ALLOWED, 32), lambda found: found.store_us, 0.5),
    Goal("p99, allowed", NGINX, Case(ALLOWED, 32), lambda found: found.p99_ms, 1.2),
    Goal("p50 at one connection, allowed", NGINX, Case(ALLOWED, 1), lambda found: found.p50_ms, 1.15),
)


def judged(samples: Sequence[Sample]) -> Iterator[tuple[Goal, Spread]]:
    """Each goal whose peer was measured, and the paired ratio."""
    for goal in GOALS:
        found = figures.ratio(samples, SIDEGATE, goal.peer, goal.case, goal.read)
        if found is not None:
            yield goal, found
