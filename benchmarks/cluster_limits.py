"""Requests under several policies on a Cluster: the share of what the limits allow that is admitted, per row.

Greedy rows: each request charges three buckets in different slots, which all callers share; many connections request
more than the limits allow. Each is measured a second time with the buckets in one slot, where one call decides all:
what is missing there too, the clients did not request, as on a busy machine. The other rows: users over their own limit
are refused 600 times a second, or not at all, beside users within theirs, under one shared limit. Real Valkey servers,
and the limiter of the sidecar without HTTP, each in a process of its own.

Run it with `.venv/bin/python -m benchmarks.cluster_limits`; `--help` lists the options. All rows take three minutes.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier

from sidegate.decision.bucket import Limit, Rate
from sidegate.decision.verdict import Answer
from sidegate.store.cluster.slots import slot_of

from tests.chaos.fault_proxy import Delay, FaultProxy
from tests.recorder import eventually
from tests.servers import StoreServer
from tests.store.sidecar import Sidecar, asking, sidecar
from tests.topologies import ClusterTrio

CONNECTIONS = 60
# The pause of a client between two requests: HTTP and the client itself take at least as long.
CLIENT_PAUSE_S = 0.01
WARM_UP_S = 1.5
SPENT_USERS, GOOD_USERS = 1_500, 300
REFUSED_PER_S, GOOD_PER_S, SHARED_PER_S = 600, 300, 500


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: three limits of `per_s` tokens each second; `delay_s` is added to each reply of the store."""

    per_s: int
    sidecars: int
    burst: int
    delay_s: float = 0.0


ROWS = [
    Row(per_s, sidecars, per_s, delay_s)
    for per_s, delay_s in ((100, 0.0), (1_000, 0.0), (300, 0.001))
    for sidecars in (1, 2, 3)
]


# -- one sidecar ------------------------------------------------------------------------------------------------------


class Counts:
    """Admitted requests before and after the warm-up, and what good users were answered."""

    def __init__(self) -> None:
        self.warm_up = 0
        self.admitted = 0
        self.good = 0
        self.good_refused = 0
        self.undecided = 0
        self.begun_s = self.ended_s = 0.0


async def _greedy(proxy: Sidecar, counts: Counts, row: Row, names: list[str], ends_s: float, begins_s: float) -> None:
    limit = Limit(Rate(row.per_s, 1_000_000), row.burst, row.burst, 60_000)
    while (now := time.monotonic()) < ends_s:
        verdict = await proxy.ask(*(asking(name, limit) for name in names))
        if verdict.answer is Answer.PASS:
            counts.admitted += now >= begins_s
            counts.warm_up += now < begins_s
        counts.undecided += verdict.answer is Answer.UNAVAILABLE
        await asyncio.sleep(CLIENT_PAUSE_S * random.uniform(0.5, 1.5))


async def _paced(proxy: Sidecar, counts: Counts, per_s: float, users: int, *, good: bool, ends_s: float) -> None:
    shared = Limit(Rate(SHARED_PER_S, 1_000_000), SHARED_PER_S, SHARED_PER_S, 60_000)
    own = Limit(Rate(1, 3_600_000_000), 1_000_000, 1_000_000 if good else 0, 3_600_000)
    due_s = time.monotonic()
    sent = []
    while due_s < ends_s:
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        name = f"{'good' if good else 'spent'}-{random.randrange(users)}"
        asked = proxy.ask(asking(name, own), asking("shared", shared))
        sent.append(asked)
        due_s += 1 / per_s
    verdicts = await asyncio.gather(*sent)
    answers = [verdict.answer for verdict in verdicts]
    counts.undecided += answers.count(Answer.UNAVAILABLE)
    if good:
        counts.good += answers.count(Answer.PASS)
        counts.good_refused += answers.count(Answer.REFUSE)
    else:
        counts.admitted += answers.count(Answer.PASS)


async def _run_greedy(url: str, row: Row, names: list[str], start: Barrier, lasting_s: float) -> Counts:
    counts = Counts()
    async with sidecar(url, timeout_s=1.0) as proxy:
        await asyncio.to_thread(start.wait)
        counts.begun_s = time.monotonic()
        begins_s = counts.begun_s + WARM_UP_S
        ends_s = begins_s + lasting_s
        connections = CONNECTIONS // row.sidecars
        await asyncio.gather(*(_greedy(proxy, counts, row, names, ends_s, begins_s) for _ in range(connections)))
        counts.ended_s = time.monotonic()
    return counts


async def _run_mixed(url: str, sidecars: int, start: Barrier, lasting_s: float, refused_per_s: float) -> Counts:
    counts = Counts()
    async with sidecar(url, timeout_s=1.0) as proxy:
        await asyncio.to_thread(start.wait)
        counts.begun_s = time.monotonic()
        ends_s = counts.begun_s + lasting_s
        good = _paced(proxy, counts, GOOD_PER_S / sidecars, GOOD_USERS, good=True, ends_s=ends_s)
        if refused_per_s:
            spent = _paced(proxy, counts, refused_per_s / sidecars, SPENT_USERS, good=False, ends_s=ends_s)
            await asyncio.gather(good, spent)
        else:
            await good
        counts.ended_s = time.monotonic()
    return counts


def _greedy_process(results: "multiprocessing.Queue[Counts]", *arguments: object) -> None:
    results.put(asyncio.run(_run_greedy(*arguments)))  # type: ignore[arg-type]


def _mixed_process(results: "multiprocessing.Queue[Counts]", *arguments: object) -> None:
    results.put(asyncio.run(_run_mixed(*arguments)))  # type: ignore[arg-type]


# -- the rows ---------------------------------------------------------------------------------------------------------


def in_different_nodes(cluster: ClusterTrio) -> list[str]:
    """One name of a bucket for each node of the Cluster."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < len(cluster.nodes):
        name = f"shared-{number}"
        found.setdefault(cluster.nodes.index(cluster.owner(slot_of(name))), name)
        number += 1
    return [found[each] for each in sorted(found)]


@contextlib.contextmanager
def delayed(cluster: ClusterTrio, delay_s: float) -> Iterator[str]:
    """The URL of the Cluster; its nodes are reached through relays that delay each reply."""
    if not delay_s:
        yield cluster.url
        return
    relays = [FaultProxy(node.port) for node in cluster.nodes]
    try:
        for node, relay in zip(cluster.nodes, relays, strict=True):
            relay.delay = Delay(delay_s)
            node.client.config_set("cluster-announce-port", relay.port)
        yield f"redis+cluster://127.0.0.1:{relays[0].port}"
    finally:
        for node, relay in zip(cluster.nodes, relays, strict=True):
            node.client.config_set("cluster-announce-port", 0)
            relay.stop()
        ports = {node.port for node in cluster.nodes}
        eventually(
            lambda: all(_ports(cluster, node) == ports for node in cluster.nodes), "the nodes forget their relays"
        )


def _ports(cluster: ClusterTrio, node: StoreServer) -> set[int]:
    """The ports of all masters, as a node names them."""
    return {port for _, _, (_, port, *_), *_ in cluster.raw(node, "CLUSTER SLOTS")}


def measured(process: object, sidecars: int, arguments: tuple[object, ...]) -> tuple[list[Counts], float]:
    """What each of the sidecars counted, and how long they took."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[Counts] = context.Queue()
    start = context.Barrier(sidecars + 1)
    running = [
        context.Process(target=process, args=(results, *(start if each is Barrier else each for each in arguments)))  # type: ignore[arg-type]
        for _ in range(sidecars)
    ]
    for each in running:
        each.start()
    start.wait()
    counts = [results.get(timeout=60) for _ in running]
    for each in running:
        each.join()
    return counts, max(each.ended_s for each in counts) - min(each.begun_s for each in counts)


def greedy_row(cluster: ClusterTrio, names: list[str], row: Row, lasting_s: float) -> None:
    """Measure and print one row of greedy clients."""
    shares, undecided = [], 0
    for each_names in (names, [f"{{one slot}}-{name}" for name in names]):
        cluster.empty()
        with delayed(cluster, row.delay_s) as url:
            counts, took_s = measured(_greedy_process, row.sidecars, (url, row, each_names, Barrier, lasting_s))
        admitted = sum(each.admitted + each.warm_up for each in counts)
        shares.append(admitted / (row.burst + row.per_s * took_s))
        undecided += sum(each.undecided for each in counts)
    print(
        f"{row.per_s:>5}/s (burst {row.burst}), {row.delay_s * 1000:.0f} ms added, {row.sidecars} sidecars: "
        f"{shares[0]:7.1%} of what is allowed, with one slot {shares[1]:7.1%}, {undecided} undecided",
        flush=True,
    )


def mixed_row(cluster: ClusterTrio, sidecars: int, lasting_s: float, refused_per_s: float) -> None:
    """Measure and print the row of refused users beside good ones."""
    cluster.empty()
    counts, took_s = measured(_mixed_process, sidecars, (cluster.url, sidecars, Barrier, lasting_s, refused_per_s))
    good, refused = sum(each.good for each in counts), sum(each.good_refused for each in counts)
    print(
        f"{refused_per_s:>5}/s refused, {sidecars} sidecars: good users {good / took_s:.0f}/s, {refused} refused,",
        f"{sum(each.undecided for each in counts)} undecided",
        flush=True,
    )


def main() -> None:
    """Start a Cluster and measure all rows."""
    parser = argparse.ArgumentParser(prog="benchmarks.cluster_limits")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each row after its warm-up")
    parser.add_argument("--sidecars", type=int, choices=(1, 2, 3), help="only the rows with so many sidecars")
    parser.add_argument("--burst", type=int, help="burst of the greedy rows' limits (default: the tokens of a second)")
    options = parser.parse_args()
    cluster = ClusterTrio()
    try:
        names = in_different_nodes(cluster)
        for refused_per_s in (0, REFUSED_PER_S):
            mixed_row(cluster, options.sidecars or 3, options.seconds + WARM_UP_S, refused_per_s)
        for row in ROWS:
            if options.sidecars in (None, row.sidecars):
                changed = replace(row, burst=options.burst or row.burst)
                greedy_row(cluster, names, changed, options.seconds)
    finally:
        for node in cluster.nodes:
            node.stop()


if __name__ == "__main__":
    main()
