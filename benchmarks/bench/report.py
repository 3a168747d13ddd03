"""Renders benchmarks/results.md from the saved figures."""

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.bench import figures, goals, store_results
from benchmarks.bench.candidates import SIDEGATE
from benchmarks.bench.figures import Case, Read, Sample, Spread
from benchmarks.bench.measure import KINDS

_COLUMNS: Mapping[str, Read] = {
    "requests/s": lambda found: found.rate,
    "proxy CPU µs": lambda found: found.proxy_us,
    "store CPU µs": lambda found: found.store_us,
    "p50 ms": lambda found: found.p50_ms,
    "p99 ms": lambda found: found.p99_ms,
    "p99.9 ms": lambda found: found.p999_ms,
    "RSS MiB": lambda found: found.rss_mib,
}

_ABOUT = """# What a request costs

Written by `make bench` and `make bench-growth`; the figures they are made of stand in `results/`.

Requests are those that an ingress forwards: 12 header fields, among them X-Request-ID, traceparent, Cookie,
X-Forwarded-For and X-User-ID, and no two heads alike; each response has an id and a Date of its own. Allowed requests
come from 1,000 users with a limit of 1,000,000/s each, refused ones from 20 users with 1/s. "Identical heads" is a
side note: one user, and the same bytes each time.

All proxies are pinned to one core; wrk (one thread), upstream and store to another one. CPU is user and system time
of the process and its children, divided by the number of responses. Sidegate runs with its default settings: metrics,
rate-limit headers and the log of refusals are on; "sidegate compiled" is the same code built by `make compiled`.
nginx and Traefik run without access log. nginx's limiter is `bench/peers/token_bucket.lua`: one script call per
request, pooled connections, the same headers. Envoy's local limiter shares no buckets and uses no store: it is listed
for orientation. Before each measurement a volley is sent
and its statuses are counted; a measurement with a response that the limit does not allow is left out and listed.
Rounds visit the candidates in turn. Cells are medians of the rounds (lowest to highest); ratios are paired by round.
"""


def page() -> str:
    """The whole page, with the parts that figures exist for."""
    return "\n".join([_ABOUT, *_peers_part(), *_growth_part()])


def _peers_part() -> Iterator[str]:
    document = store_results.load("peers")
    if document is None:
        return
    samples = store_results.samples_of(document["samples"])
    yield f"## Beside its peers\n\n{document['machine']}. {document['rounds']} rounds of {document['seconds']} s.\n"
    versions = (f"{name} {text}".strip() for name, text in document["versions"].items())
    yield f"Versions: {'; '.join(versions)}.\n"
    for name, command in document["missing"].items():
        yield f"Not measured: {name}, which is not installed (`{command}`).\n"
    yield from (f"Not counted because of wrong responses: {fault}.\n" for fault in document["uncounted"])
    if document["chart"]:
        yield "![CPU and latency beside the peers](results/peers.svg)\n"
    yield from goal_lines(samples)
    for kind in KINDS:
        for connections in sorted({sample.case.connections for sample in samples if sample.case.kind == kind}):
            yield from case_lines(samples, Case(kind, connections))


def goal_lines(samples: Sequence[Sample]) -> Iterator[str]:
    """The goals, as a table."""
    yield "| Ratio of | build | to that of | connections | goal | measured | reached |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for goal, found in goals.judged(samples):
        reached = "yes" if found.middle <= goal.most else "no"
        cells = (goal.words, goal.build, goal.peer, goal.case.connections, f"≤ {goal.most}", cell(found), reached)
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""


def case_lines(samples: Sequence[Sample], case: Case) -> Iterator[str]:
    """One case as a table: a row per candidate, with the ratios of Sidegate's CPU and p99 to its own."""
    plural = "" if case.connections == 1 else "s"
    yield f"### {case.kind.capitalize()}, {case.connections} connection{plural}\n"
    yield f"| | {' | '.join(_COLUMNS)} | CPU, sidegate / this | p99, sidegate / this |"
    yield f"| --- |{' --- |' * (len(_COLUMNS) + 2)}"
    for name in dict.fromkeys(sample.candidate for sample in samples):
        found = [figures.of(samples, name, case, read) for read in _COLUMNS.values()]
        ratios = [
            figures.ratio(samples, SIDEGATE, name, case, _COLUMNS[column]) if name != SIDEGATE else None
            for column in ("proxy CPU µs", "p99 ms")
        ]
        yield f"| {name} | {' | '.join(map(cell, [*found, *ratios]))} |"
    yield ""


def cell(found: Spread | None) -> str:
    """A spread with significant digits only."""
    if found is None:
        return "-"
    digits = 0 if found.middle >= 1000 else 1 if found.middle >= 20 else 2
    return f"{found.middle:.{digits}f} ({found.lowest:.{digits}f} to {found.highest:.{digits}f})"


def _growth_part() -> Iterator[str]:
    document = store_results.load("growth")
    if document is None:
        return
    yield f"## How the cost grows\n\n{document['machine']}.\n"
    yield f"Medians of {document['rounds']} rounds; 32 connections, for bodies 4.\n"
    if document["chart"]:
        yield "![How the cost of a request grows](results/growth.svg)\n"
    yield from growth_lines(document["points"])


def growth_lines(points: Mapping[str, Sequence[Sequence[float]]]) -> Iterator[str]:
    """One table per question: size, CPU of proxy and store, latency, and the ratio to the first size's CPU."""
    for name, found in points.items():
        title, _, unit = name.rpartition(" (")
        yield f"### {title.capitalize()}\n"
        yield f"| {unit.rstrip(')')} | proxy CPU µs | store CPU µs | p50 ms | proxy CPU, times the first |"
        yield "| --- | --- | --- | --- | --- |"
        for size, proxy_us, store_us, p50_ms in found:
            times = proxy_us / found[0][1]
            yield f"| {size:,} | {proxy_us:.1f} | {store_us:.1f} | {p50_ms:.2f} | {times:.2f} |"
        yield ""
