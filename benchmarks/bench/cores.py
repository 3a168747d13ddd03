"""`make bench-cores`: the capacity of two workers compared with one.

Load, application and store want the same two cores, so that requests a second say little. The result is what the
sidecar itself could serve: requests by the CPU time of its busiest process, which is the one that would be full first.
Prints a table; exit 0 measured, 1 wrong answers, 2 nothing to measure with.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

import yaml

from benchmarks.bench import figures, volley, wrk
from benchmarks.bench.laboratory import Laboratory, cpu_us, family, free_port, python
from benchmarks.bench.report import cell

WORKERS = (1, 2)
# Enough connections that the kernel distributes them about evenly.
PATH, CONNECTIONS = "/wide", 256


class Served(NamedTuple):
    """One measurement: requests, and the CPU µs that each process of the sidecar spent on them."""

    requests: int
    processes_us: Sequence[float]

    @property
    def possible(self) -> float:
        """Requests a second at which the busiest process would be full."""
        return self.requests / max(self.processes_us) * 1e6

    @property
    def request_us(self) -> float:
        """CPU µs a request, of all processes."""
        return sum(self.processes_us) / self.requests


def times(one: Sequence[Served], more: Sequence[Served]) -> figures.Spread:
    """How many times as much `more` could serve, paired by round."""
    return figures.spread([other.possible / first.possible for first, other in zip(one, more, strict=True)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench-cores", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=1, help="of each measurement")
    options = parser.parse_args(arguments)
    if shutil.which("wrk") is None or len(os.sched_getaffinity(0)) < max(WORKERS):
        print("bench-cores: wants wrk (apt-get install wrk) and two cores", file=sys.stderr)
        return 2
    taken: dict[int, list[Served]] = {count: [] for count in WORKERS}
    with _sidecars() as (laboratory, sidecars):
        for _ in range(options.rounds):
            for count, (pid, port) in sidecars.items():
                try:
                    taken[count].append(_measure(laboratory, pid, port, options.seconds))
                except volley.WrongAnswers as error:
                    print(f"bench-cores: wrong answers: {error}", file=sys.stderr)
                    return 1
    print("| workers | CPU µs a request | could serve, requests/s | times one worker |\n| --- | --- | --- | --- |")
    for count, found in taken.items():
        cost, possible = median(each.request_us for each in found), median(each.possible for each in found)
        print(f"| {count} | {cost:.1f} | {possible:.0f} | {cell(times(taken[1], found))} |")
    return 0


@contextmanager
def _sidecars() -> Iterator[tuple[Laboratory, dict[int, tuple[int, int]]]]:
    """One sidecar for each number of workers, on all cores: its process and port."""
    with Laboratory() as laboratory:
        store, upstream = free_port(), free_port()
        laboratory.start_store(store)
        laboratory.start_upstream(upstream)
        sidecars = {}
        for count in WORKERS:
            port = free_port()
            settings = {
                "listen": {"host": "127.0.0.1", "port": port, "workers": count},
                "admin": {"port": free_port()},
                "upstream": {"url": f"http://127.0.0.1:{upstream}"},
                "store": {"url": f"redis://127.0.0.1:{store}", "timeout": "1s"},
                "policies": [
                    {"name": "wide", "match": {"path": PATH}, "key": "header:X-User-ID", "limit": "1000000/s"}
                ],
            }
            file = laboratory.write(f"workers-{count}.yaml", yaml.safe_dump(settings))
            command = python("sidegate", "run", "--config", str(file))
            cores = f"{laboratory.proxies},{laboratory.others}"
            sidecars[count] = laboratory.start(f"workers-{count}", cores, command, port), port
        yield laboratory, sidecars


def _measure(laboratory: Laboratory, pid: int, port: int, seconds: int) -> Served:
    volley.expect_only(200, port, PATH, CONNECTIONS)
    processes = family(pid)
    before = [_own_us(each) for each in processes]
    seen = wrk.run(f"http://127.0.0.1:{port}{PATH}", CONNECTIONS, seconds, laboratory.others)
    if seen.failed or seen.broken or not seen.requests:
        raise volley.WrongAnswers(str(seen))
    return Served(seen.requests, [_own_us(each) - begun for each, begun in zip(processes, before, strict=True)])


def _own_us(pid: int) -> float:
    """CPU time of one process without its children."""
    return cpu_us(pid) - sum(cpu_us(child) for child in family(pid)[1:])


if __name__ == "__main__":
    sys.exit(main())
