"""`make bench-watching`: the overhead of scrapes, an open dashboard and `sidegate top`.

One sidecar, pinned to a core, under constant closed load. Windows with and without watchers alternate, and each pair of
adjacent windows gives one ratio of CPU time a request; the order within a pair alternates too, so that what else the
machine does hits both sides alike. Then the same watchers look at the sidecar while it has nothing else to do.
"""

import argparse
import http.client
import os
import pty
import select
import shutil
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import NamedTuple

import yaml

from benchmarks.bench import machine, volley, wrk
from benchmarks.bench.laboratory import ROOT, Laboratory, cpu_us, end, free_port, python

CONNECTIONS = 32
# Three times as often as Prometheus does by default.
SCRAPE_EVERY_S = 5.0
# Enough keys to fill the table of the keys refused most, which every response contains.
REFUSED_KEYS = 400
POLICIES = 10


class Pair(NamedTuple):
    """CPU µs a request of two adjacent windows."""

    alone_us: float
    watched_us: float


@dataclass(frozen=True, slots=True)
class Watched:
    """A running sidecar, its admin port, and the core for everything that is not measured."""

    pid: int
    port: int
    admin: int
    core: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status: 0 measured, 1 wrong answers, 2 nothing to measure with."""
    parser = argparse.ArgumentParser(prog="bench-watching", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--seconds", type=int, default=5, help="of each window")
    parser.add_argument("--watchers", nargs="+", choices=WATCHERS, default=list(WATCHERS))
    options = parser.parse_args(arguments)
    if shutil.which("wrk") is None:
        print("bench: wrk is missing; install it with: apt-get install wrk", file=sys.stderr)
        return 2
    with Laboratory() as laboratory:
        sidecar = _start(laboratory)
        try:
            pairs = [_pair(sidecar, options, number) for number in range(options.pairs)]
        except volley.WrongAnswers as error:
            print(f"bench: wrong answers, so no figures: {error}", file=sys.stderr)
            return 1
        idle = _idle_us_a_second(sidecar, options.watchers, 4 * options.seconds)
    print(machine.describe())
    for line in lines(pairs, idle):
        print(line)
    return 0


def lines(pairs: Sequence[Pair], idle: tuple[float, float]) -> list[str]:
    """The report: median of the paired ratios with its quartiles, and the cost without load."""
    ratios = [pair.watched_us / pair.alone_us for pair in pairs]
    low, middle, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    alone, watched = (median(side) for side in zip(*pairs, strict=True))
    more_us = idle[1] - idle[0]
    return [
        f"CPU a request: {alone:.2f} µs alone, {watched:.2f} µs watched (medians of {len(pairs)} windows each)",
        f"watched / alone, pair by pair: {middle:.3f}, quartiles {low:.3f} to {high:.3f}",
        f"without load: {more_us / 1000:.2f} ms of CPU a second for being watched, {more_us / 10_000:.2f} % of a core",
    ]


# -- windows ----------------------------------------------------------------------------------------------------------


def _start(laboratory: Laboratory) -> Watched:
    store, upstream, port, admin = (free_port() for _ in range(4))
    laboratory.start_store(store)
    laboratory.start_upstream(upstream)
    policy = {"key": "header:X-User-ID", "limit": "1000000/s"}
    policies = [{"name": f"other-{number}", "match": {"path": f"/{number}/**"}, **policy} for number in range(POLICIES)]
    config = {
        "listen": {"host": "127.0.0.1", "port": port},
        "admin": {"port": admin},
        "upstream": {"url": f"http://127.0.0.1:{upstream}"},
        "store": {"url": f"redis://127.0.0.1:{store}", "timeout": "1s"},
        "policies": [
            {"name": "wide", "match": {"path": "/wide"}, **policy},
            {"name": "tight", "match": {"path": "/tight/*"}, "key": "path", "limit": "1/day", "burst": 1},
            *policies,
        ],
    }
    path = laboratory.write("sidegate.yaml", yaml.safe_dump(config))
    pid = laboratory.start("sidegate", laboratory.proxies, python("sidegate", "run", "--config", str(path)), port)
    return Watched(pid, port, admin, laboratory.others)


def _pair(sidecar: Watched, options: argparse.Namespace, number: int) -> Pair:
    """Two adjacent windows; every second pair has the watched one first."""
    _refuse(sidecar)
    costs: dict[bool, float] = {}
    for watched in (False, True) if number % 2 else (True, False):
        with watching(sidecar, options.watchers if watched else ()):
            costs[watched] = _window(sidecar, options.seconds)
    pair = Pair(costs[False], costs[True])
    print(f"{number + 1}: {pair.alone_us:.2f} µs, watched {pair.watched_us:.2f} µs", file=sys.stderr)
    return pair


def _window(sidecar: Watched, seconds: int) -> float:
    """CPU µs a request over some seconds of load. Raises WrongAnswers."""
    volley.expect_only(200, sidecar.port, "/wide", CONNECTIONS)
    before = cpu_us(sidecar.pid)
    seen = wrk.run(f"http://127.0.0.1:{sidecar.port}/wide", CONNECTIONS, seconds, sidecar.core)
    if seen.failed or seen.broken or not seen.requests:
        raise volley.WrongAnswers(str(seen))
    return (cpu_us(sidecar.pid) - before) / seen.requests


def _refuse(sidecar: Watched) -> None:
    for key in range(REFUSED_KEYS):
        volley.statuses(sidecar.port, f"/tight/{key}", 1, 2)


def _idle_us_a_second(sidecar: Watched, watchers: Sequence[str], seconds: int) -> tuple[float, float]:
    """CPU µs a second without load: alone, and watched."""
    found = []
    for watched in ((), watchers):
        with watching(sidecar, watched):
            before, began_s = cpu_us(sidecar.pid), time.monotonic()
            time.sleep(seconds)
            found.append((cpu_us(sidecar.pid) - before) / (time.monotonic() - began_s))
    return found[0], found[1]


# -- watchers ---------------------------------------------------------------------------------------------------------


@contextmanager
def watching(sidecar: Watched, watchers: Sequence[str]) -> Iterator[None]:
    """Watch while the block runs, which begins when all were answered. Raises WrongAnswers where one ends early."""
    stop = threading.Event()
    with ExitStack() as stack:
        stack.callback(stop.set)
        for name in watchers:
            stack.enter_context(_beside(name, WATCHERS[name], sidecar, stop))
        yield
        stop.set()


@contextmanager
def _beside(name: str, watch: "Watch", sidecar: Watched, stop: threading.Event) -> Iterator[None]:
    ready = threading.Event()
    faults: list[object] = []

    def run() -> None:
        try:
            watch(sidecar, ready, stop)
        except (OSError, http.client.HTTPException, volley.WrongAnswers) as error:
            faults.append(error)
        ready.set()

    thread = threading.Thread(target=run, name=name)
    thread.start()
    try:
        if not ready.wait(15):
            faults.append("no answer")
        yield
    finally:
        stop.set()
        thread.join(15)
    if faults or thread.is_alive():
        raise volley.WrongAnswers(f"{name}: {faults or 'does not end'}")


def _scrape(sidecar: Watched, ready: threading.Event, stop: threading.Event) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", sidecar.admin, timeout=10)
    while not stop.is_set():
        if b"sidegate_requests_total" not in _asked(connection, "/metrics").read():
            raise volley.WrongAnswers("a scrape without metrics")
        ready.set()
        stop.wait(SCRAPE_EVERY_S)
    connection.close()


def _dashboard(sidecar: Watched, ready: threading.Event, stop: threading.Event) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", sidecar.admin, timeout=10)
    events = _asked(connection, "/events")
    while not stop.is_set():  # a second is an event, so that no read takes long
        if not events.readline():
            raise volley.WrongAnswers("the stream of events ended")
        ready.set()
    connection.close()


def _top(sidecar: Watched, ready: threading.Event, stop: threading.Event) -> None:
    """`sidegate top` in a terminal of its own, which is read as a terminal would."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (40, 120))
    command = python("sidegate", "top", "--admin", f"http://127.0.0.1:{sidecar.admin}")
    process = subprocess.Popen(
        ["taskset", "-c", str(sidecar.core), *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(theirs)
    try:
        shown = b""
        while not stop.is_set():
            if process.poll() is not None:
                raise volley.WrongAnswers(f"top ended: {shown[-300:]!r}")
            if select.select([ours], [], [], 0.2)[0]:
                shown = (shown + os.read(ours, 65536))[-65536:]
            if b"refused most" in shown:
                ready.set()
    finally:
        end(process)
        os.close(ours)


def _asked(connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
    connection.request("GET", path)
    response = connection.getresponse()
    if response.status != 200:
        raise volley.WrongAnswers(f"{path}: status {response.status}")
    return response


Watch = Callable[[Watched, threading.Event, threading.Event], None]
WATCHERS: dict[str, Watch] = {"scrape": _scrape, "dashboard": _dashboard, "top": _top}


if __name__ == "__main__":
    sys.exit(main())
