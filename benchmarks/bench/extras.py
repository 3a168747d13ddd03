"""`make bench-extras`: the overhead of request ids, spans, the log of all requests, and the other kinds of limit.

The other kinds replace the rate of the sidecar without extras. One sidecar for each, all on one core, measured in turn
under the same closed load; figures are paired with those of the sidecar without extras that was measured in the same
round.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median, quantiles
from typing import Any

import yaml

from benchmarks.bench import machine, volley, wrk
from benchmarks.bench.laboratory import Laboratory, cpu_us, free_port, python

CONNECTIONS = 32
PLAIN = "without extras"
_POLICY = {"name": "wide", "match": {"path": "/wide"}, "key": "header:X-User-ID"}
_RATE = {**_POLICY, "limit": "1000000/s"}


def extras(collector: int) -> Mapping[str, Mapping[str, Any]]:
    """The configurations to measure, by name: the sections that each adds."""
    endpoint = f"http://127.0.0.1:{collector}/v1/traces"
    return {
        PLAIN: {},
        "request ids": {"listen": {"request_id_header": "X-Request-ID"}},
        "spans, all": {"tracing": {"endpoint": endpoint, "sample": 1.0}},
        "spans, 1 in 100": {"tracing": {"endpoint": endpoint, "sample": 0.01}},
        "log of all requests": {"log": {"requests": "all"}},
        "requests in flight": {"policies": [{**_POLICY, "in_flight": 1_000_000}]},
        "settled by status": {"policies": [{**_RATE, "settle": {"when": ["4xx", "5xx"]}}]},
        "wait": {"policies": [{**_RATE, "wait": "1s"}]},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status: 0 measured, 1 wrong answers, 2 nothing to measure with."""
    parser = argparse.ArgumentParser(prog="bench-extras", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    options = parser.parse_args(arguments)
    if shutil.which("wrk") is None:
        print("bench: wrk is missing; install it with: apt-get install wrk", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        laboratory = stack.enter_context(Laboratory())
        started = _start_all(laboratory)
        try:
            rounds = [_round(laboratory, started, number, options.seconds) for number in range(options.rounds)]
        except volley.WrongAnswers as error:
            print(f"bench: wrong answers, so no figures: {error}", file=sys.stderr)
            return 1
    print(machine.describe())
    for line in lines(rounds):
        print(line)
    return 0


def lines(rounds: Sequence[Mapping[str, float]]) -> list[str]:
    """Medians of CPU µs per request; of the increase by each extra within a round, with quartiles; and of its ratio."""
    found = []
    for name in rounds[0]:
        added = [each[name] - each[PLAIN] for each in rounds]
        low, middle, high = quantiles(added, n=4, method="inclusive") if len(added) > 1 else added * 3
        ratio = median(each[name] / each[PLAIN] for each in rounds)
        more = (
            f", adds {middle:+.2f} µs, quartiles {low:+.2f} to {high:+.2f}; {ratio:.2f} times" if name != PLAIN else ""
        )
        found.append(f"{name}: {median(each[name] for each in rounds):.2f} µs of CPU a request{more}")
    return found


def _start_all(laboratory: Laboratory) -> dict[str, tuple[int, int]]:
    """A sidecar for each extra: its process id and port."""
    store, upstream, collector = free_port(), free_port(), free_port()
    laboratory.start_store(store)
    laboratory.start_upstream(upstream)
    # Responds 200 to any request, as a collector does.
    laboratory.start("collector", laboratory.others, python("benchmarks.static_upstream", str(collector)), collector)
    started = {}
    for number, (name, sections) in enumerate(extras(collector).items()):
        port = free_port()
        config: dict[str, Any] = {
            "admin": {"port": free_port()},
            "upstream": {"url": f"http://127.0.0.1:{upstream}"},
            "store": {"url": f"redis://127.0.0.1:{store}", "timeout": "1s"},
            "policies": [_RATE],
            **sections,
        }
        config["listen"] = {"host": "127.0.0.1", "port": port, **config.get("listen", {})}
        path = laboratory.write(f"sidegate-{number}.yaml", yaml.safe_dump(config))
        command = python("sidegate", "run", "--config", str(path))
        started[name] = laboratory.start(f"sidegate-{number}", laboratory.proxies, command, port), port
    return started


def _round(
    laboratory: Laboratory, started: Mapping[str, tuple[int, int]], number: int, seconds: int
) -> dict[str, float]:
    """CPU µs a request of each; every second round in the opposite order. Raises WrongAnswers."""
    costs = {}
    for name in list(started)[:: 1 if number % 2 else -1]:
        pid, port = started[name]
        volley.expect_only(200, port, "/wide", CONNECTIONS)
        before = cpu_us(pid)
        seen = wrk.run(f"http://127.0.0.1:{port}/wide", CONNECTIONS, seconds, laboratory.others)
        if seen.failed or seen.broken or not seen.requests:
            raise volley.WrongAnswers(f"{name}: {seen}")
        costs[name] = (cpu_us(pid) - before) / seen.requests
    print(", ".join(f"{name} {costs[name]:.2f}" for name in started), file=sys.stderr)
    return {name: costs[name] for name in started}


if __name__ == "__main__":
    sys.exit(main())
