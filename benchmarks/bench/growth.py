"""`make bench-growth`: how the cost of a request grows with policies, buckets, overrides, callers, bodies and sidecars.

For each question one sidecar a point is started, and the points are measured in turn, several rounds; figures are
medians. Proxies on one core, load and store on the other, as in `bench`.
"""

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import redis
import yaml

from benchmarks.bench import machine, report, store_results, volley, wrk
from benchmarks.bench.laboratory import Laboratory, cpu_us, free_port, python

SECONDS = 1
PATH = "/wide"
# Request rate of each of many sidecars, far below its capacity.
LIGHT_LOAD_PER_S = 50
_FILL_A_CALL = 50_000
_FILL = """
for number = ARGV[1], ARGV[2] do
  redis.call('HSET', 'example:wide:user-' .. string.format('%d', number),
    'tokens', '999000', 'since', ARGV[3], 'rate', '1/1')
end
"""


class Point(NamedTuple):
    """One measurement: the size that was varied, CPU µs a request of proxy and store, and the median latency."""

    size: int
    proxy_us: float
    store_us: float
    p50_ms: float


@dataclass(frozen=True, slots=True)
class Question:
    """A variable: its sizes, the policies for each size, and the kind of load."""

    name: str
    unit: str
    sizes: Sequence[int]
    policies: Callable[[int], list[dict[str, Any]]]
    body: bool = False
    keys: bool = False
    connections: int = 32


def wide(name: str = "wide", path: str = PATH, **more: object) -> dict[str, Any]:
    """A policy that never refuses."""
    return {"name": name, "match": {"path": path}, "key": "header:X-User-ID", "limit": "1000000/s", **more}


def _policies(count: int) -> list[dict[str, Any]]:
    return [wide(), *(wide(f"other-{number}", f"/other/{number}/**") for number in range(count - 1))]


def _overrides(count: int) -> list[dict[str, Any]]:
    keys = [f"vip-{number}" for number in range(count)]
    parts = [keys[at : at + 500] for at in range(0, count, 500)]
    return [wide(overrides=[{"key": part, "limit": "2000000/s"} for part in parts])] if parts else [wide()]


QUESTIONS = (
    Question("policies configured, one applies", "policies", (1, 10, 100), _policies),
    Question("buckets a request", "buckets", (1, 2, 4, 8), lambda count: [wide(f"wide-{n}") for n in range(count)]),
    Question("keys with a limit of their own", "override keys", (0, 100, 10_000), _overrides),
    Question("callers", "keys in the store", (1, 1_000, 100_000, 1_000_000), lambda _: [wide()], keys=True),
    Question(
        "body of the request",
        "bytes",
        (0, 1024, 65_536, 2**20, 10 * 2**20),
        lambda _: [wide()],
        body=True,
        connections=4,
    ),
)
SIDECARS = (1, 4, 12)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and keep; returns the exit status: 0 measured, 1 wrong answers, 2 nothing to measure with."""
    parser = argparse.ArgumentParser(prog="bench-growth", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-keep", dest="keep", action="store_false", help="print only")
    options = parser.parse_args(arguments)
    if shutil.which("wrk") is None:
        print("bench: wrk is missing; install it with: apt-get install wrk", file=sys.stderr)
        return 2
    found: dict[str, list[Point]] = {}
    try:
        for question in QUESTIONS:
            print(question.name, file=sys.stderr)
            found[f"{question.name} ({question.unit})"] = answer(question, options.rounds)
        print("sidecars", file=sys.stderr)
        found[f"sidecars on one store, {LIGHT_LOAD_PER_S} requests/s each (sidecars)"] = sidecars(options.rounds)
    except volley.WrongAnswers as error:
        print(f"bench: wrong answers, so no figures: {error}", file=sys.stderr)
        return 1
    for line in report.growth_lines(found):
        print(line)
    if options.keep:
        keep(found, options.rounds)
    return 0


def keep(found: Mapping[str, list[Point]], rounds: int) -> None:
    """Write the figures, the chart and the page."""
    document = {"machine": machine.describe(), "rounds": rounds, "points": found}
    store_results.save("growth", document)
    drawn = store_results.draw("growth") is not None
    store_results.save("growth", {**document, "chart": drawn})
    store_results.PAGE.write_text(report.page())


def answer(question: Question, rounds: int) -> list[Point]:
    """Measure all sizes of one question, in turn."""
    with _sidecars([question.policies(size) for size in question.sizes]) as (laboratory, store_pid, store_port, pids):
        if question.keys:
            _fill(store_port, max(question.sizes))
        taken: dict[int, list[Point]] = {size: [] for size in question.sizes}
        for _ in range(rounds):
            for size, (pid, port) in zip(question.sizes, pids, strict=True):
                url, body_bytes = f"http://127.0.0.1:{port}{PATH}", size if question.body else 0
                keys = size if question.keys else 1
                volley.expect_only(200, port, PATH, question.connections)
                before = cpu_us(pid), cpu_us(store_pid)
                seen = wrk.run(url, question.connections, SECONDS, laboratory.others, body_bytes=body_bytes, keys=keys)
                after = cpu_us(pid), cpu_us(store_pid)
                if seen.failed or seen.broken or not seen.requests:
                    raise volley.WrongAnswers(f"{question.name}, {size}: {seen}")
                costs = [(after[side] - before[side]) / seen.requests for side in (0, 1)]
                taken[size].append(Point(size, costs[0], costs[1], seen.p50_ms))
        return [middle(points) for points in taken.values()]


def sidecars(rounds: int) -> list[Point]:
    """Many sidecars on one store, each under light load: the cost of a request, summed over all of them."""
    found = []
    with _sidecars([[wide()]] * max(SIDECARS)) as (_, store_pid, _, started):
        for count in SIDECARS:
            taken, chosen = [], started[:count]
            for _ in range(rounds):
                before = sum(cpu_us(pid) for pid, _ in chosen), cpu_us(store_pid)
                latencies = asyncio.run(_lightly([port for _, port in chosen]))
                after = sum(cpu_us(pid) for pid, _ in chosen), cpu_us(store_pid)
                costs = [(after[side] - before[side]) / len(latencies) for side in (0, 1)]
                taken.append(Point(count, costs[0], costs[1], median(latencies) * 1000))
            found.append(middle(taken))
    return found


def middle(points: Sequence[Point]) -> Point:
    """The median of each figure of points of one size."""
    return Point(points[0].size, *(median(figures) for figures in list(zip(*points, strict=True))[1:]))


Started = list[tuple[int, int]]


@contextmanager
def _sidecars(configured: Sequence[list[dict[str, Any]]]) -> Iterator[tuple[Laboratory, int, int, Started]]:
    """A store, an application, and a sidecar for each list of policies: laboratory, store, and (process id, port)."""
    with Laboratory() as laboratory:
        store_port, upstream_port = free_port(), free_port()
        store_pid = laboratory.start_store(store_port)
        laboratory.start_upstream(upstream_port)
        started = []
        for number, policies in enumerate(configured):
            port = free_port()
            config = {
                "listen": {"host": "127.0.0.1", "port": port},
                "admin": {"port": free_port()},
                "upstream": {"url": f"http://127.0.0.1:{upstream_port}"},
                "store": {"url": f"redis://127.0.0.1:{store_port}", "timeout": "1s"},
                "policies": policies,
            }
            path = laboratory.write(f"sidegate-{number}.yaml", yaml.safe_dump(config))
            command = python("sidegate", "run", "--config", str(path))
            started.append((laboratory.start(f"sidegate-{number}", laboratory.proxies, command, port), port))
        yield laboratory, store_pid, store_port, started


def _fill(port: int, keys: int) -> None:
    """Buckets for all callers, as if each had been here a moment ago."""
    with redis.Redis(port=port) as store:
        seconds, microseconds = store.time()
        for first in range(1, keys + 1, _FILL_A_CALL):
            last = min(first + _FILL_A_CALL - 1, keys)
            store.eval(_FILL, 0, str(first), str(last), str(seconds * 1_000_000 + microseconds))


async def _lightly(ports: Sequence[int]) -> list[float]:
    """LIGHT_LOAD_PER_S requests a second to each port, for SECONDS; all latencies in seconds."""
    latencies: list[float] = []

    async def ask(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(LIGHT_LOAD_PER_S * SECONDS):
            due_s = began_s + number / LIGHT_LOAD_PER_S
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            sent_s = time.perf_counter()
            status = await volley.ask(reader, writer, PATH)
            latencies.append(time.perf_counter() - sent_s)
            if status != 200:
                raise volley.WrongAnswers(f"sidecar on {port}: status {status}")
        writer.close()

    began_s = time.perf_counter()
    await asyncio.gather(*map(ask, ports))
    return latencies


if __name__ == "__main__":
    sys.exit(main())
