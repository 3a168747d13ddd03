"""The lab: a store behind a fault proxy, three sidecars, one echo application, and the results of traffic.

A fourth sidecar is the control: with a store of its own that has no faults, under the same traffic at the same time. What
it does late, or does not decide, is the machine's doing, and the bounds of the others allow for it.
"""

import asyncio
import contextlib
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.fault_proxy import FaultProxy
from tests.chaos.traffic import Answered, Traffic, Wanted
from tests.raw_client import get
from tests.servers import StoreServer
from tests.sidecar import Config, Sidecar, configuration

ROOT = Path(__file__).parent.parent.parent


class Quota:
    """A limit of the lab's policies: `rate_per_s` and `burst`, each bucket full at first."""

    def __init__(self, per_minute: int, burst: int, keys: int, on_failure: str) -> None:
        self.per_minute, self.burst, self.keys, self.on_failure = per_minute, burst, keys, on_failure
        self.rate_per_s = per_minute / 60

    def bound(self, seconds: float, losses: int, outage_s: float | None) -> int:
        """The most that one key may be admitted: the published bound. `outage_s` is the sum of all outages."""
        bound = self.burst * (1 + losses) + self.rate_per_s * seconds
        if self.on_failure == "local" and outage_s is not None:
            bound += self.burst + self.rate_per_s * outage_s
        return math.floor(bound) + 1


# Of ten requests four are `calm` (offered less than their limit, so never refused), two `tight`, one `local`, two
# `greedy`, one `open`. The one user of `greedy` is the same in all rounds, and is offered ten times what it may have.
QUOTAS = {
    "calm": Quota(1200, 60, 40, "deny"),
    "tight": Quota(240, 10, 5, "deny"),
    "local": Quota(540, 30, 3, "local"),
    "greedy": Quota(12, 3, 1, "local"),
    "open": Quota(540, 30, 5, "allow"),
}
KINDS = ("calm", "tight", "calm", "greedy", "calm", "tight", "calm", "local", "greedy", "open")
POLICIES = [
    {
        "name": kind,
        "match": {"path": [f"/{kind}/**"]},
        "key": "header:X-User-ID",
        "limit": f"{quota.per_minute}/minute",
        "burst": quota.burst,
        "on_store_failure": quota.on_failure,
    }
    for kind, quota in QUOTAS.items()
]
# 100 requests, and no more during one lab.
EXACT = {"name": "exact", "match": {"path": ["/exact/**"]}, "key": "header:X-User-ID", "limit": "1/day", "burst": 100}


@dataclass(slots=True)
class Greedy:
    """What the greedy user was offered and admitted over all rounds, and what its bound depends on."""

    began_s: float | None = None
    offered: int = 0
    admitted: int = 0
    losses: int = 0
    outages_s: float | None = None

    def bound(self, ended_s: float) -> int:
        """The most that may have been admitted by then."""
        return QUOTAS["greedy"].bound(ended_s - (self.began_s or 0.0), self.losses, self.outages_s)


class Lab:
    """Start it with `lab()`. `span_s` is how long a fault lasts, `timeout_s` is the sidecars' `store.timeout`."""

    def __init__(
        self, store: StoreServer, proxy: FaultProxy, sidecars: list[Sidecar], control: Sidecar, app_port: int
    ) -> None:
        self.store = store
        self.proxy = proxy
        self.sidecars = sidecars
        self.control = control
        self.app_port = app_port
        self.span_s = 1.0
        self.timeout_s = 0.05
        self.begun_s = 0.0
        self.ended_s = 0.0
        self.round = 0
        self.brief = False  # end a fault as soon as every breaker has opened
        self.greedy = Greedy()
        self._marks = [0] * len(sidecars)

    async def settled(self) -> None:
        """Wait until every sidecar is connected. The store keeps its data: only `greedy` has a user of earlier rounds."""
        self.proxy.heal()
        await self.healthy()

    async def healthy(self) -> None:
        """Wait until every sidecar uses its store."""
        while True:
            pages = [await asyncio.to_thread(get, sidecar.port, "/health") for sidecar in self.sidecars]
            if all(page.json()["status"] == "ok" for page in pages):
                return
            await asyncio.sleep(0.1)

    def begin(self) -> None:
        self._marks = [len(sidecar.lines) for sidecar in self.sidecars]
        self.begun_s = asyncio.get_running_loop().time()

    def end(self) -> None:
        self.ended_s = asyncio.get_running_loop().time()

    async def last(self) -> None:
        """Wait for the span of the fault; for a brief one, until shortly after every breaker has opened."""
        loop = asyncio.get_running_loop()
        while loop.time() < self.begun_s + self.span_s:
            if self.brief and len(self.first_moments("store_breaker_open")) >= len(self.sidecars):
                await asyncio.sleep(0.2)
                return
            await asyncio.sleep(0.02)

    def wanted(self, number: int) -> Wanted:
        """The request of this number in the present round; users are new in each round, but for the greedy one."""
        kind = KINDS[(number // len(self.sidecars)) % len(KINDS)]
        user = "greedy" if kind == "greedy" else f"r{self.round}-{(number // 7) % QUOTAS[kind].keys}"
        return Wanted(kind, user, f"/{kind}/{self.round}/{number}")

    def wanted_of_control(self, number: int) -> Wanted:
        """The request of this number to the control."""
        return Wanted("calm", f"control-{number % QUOTAS['calm'].keys}", f"/calm/control-{self.round}/{number}")

    def seen_by_the_app(self) -> Counter[str]:
        return Counter(get(self.app_port, "/seen").body.decode().split("\n"))

    def first_moments(self, event: str) -> list[float]:
        """The time of the first log line of an event since the fault began, for each sidecar that logged it."""
        offset_s = datetime.now(UTC).timestamp() - asyncio.get_running_loop().time()
        found = []
        for sidecar, mark in zip(self.sidecars, self._marks, strict=True):
            line = next((line for line in list(sidecar.lines)[mark:] if line["event"] == event), None)
            if line is not None:
                found.append(datetime.fromisoformat(line["time"]).timestamp() - offset_s)
        return found


@contextlib.contextmanager
def lab(timeout: str, *store_options: str) -> Iterator[Lab]:
    """Starts everything and ends it afterwards; fails if a sidecar wrote to stderr."""
    with contextlib.ExitStack() as stack:
        store, proxy = _relayed_store(stack, *store_options)
        _, control = _relayed_store(stack)
        app_port = stack.enter_context(application())
        *sidecars, fourth = [
            stack.enter_context(Sidecar(_config(each, app_port, timeout))) for each in (proxy, proxy, proxy, control)
        ]
        yield Lab(store, proxy, sidecars, fourth, app_port)


def _relayed_store(stack: contextlib.ExitStack, *options: str) -> tuple[StoreServer, FaultProxy]:
    store = StoreServer(*options)
    stack.callback(store.stop)
    proxy = FaultProxy(store.port)
    stack.callback(proxy.stop)
    return store, proxy


@contextlib.contextmanager
def application(*arguments: str, module: str = "tests.chaos.echo_app") -> Iterator[int]:
    """The echo application, or another one; yields its port."""
    command = [sys.executable, "-m", module, *arguments]
    app = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert app.stdout is not None
    try:
        yield int(app.stdout.readline())
    finally:
        app.terminate()
        app.wait(10)
        app.stdout.close()


def _config(proxy: FaultProxy, app_port: int, timeout: str) -> Config:
    upstream = f"http://127.0.0.1:{app_port}"
    return configuration(
        proxy.url, upstream, policies=[*POLICIES, EXACT], store={"timeout": timeout}, log={"requests": "none"}
    )


Inject = Callable[[Lab], Awaitable[None]]


async def under_load(
    lab: Lab, rate_per_s: float, calm_s: float, after_s: float, inject: Inject
) -> tuple[list[Answered], list[Answered]]:
    """Steady traffic: calm, the fault, and some time after its end. Returns the answers, and those of the control."""
    lab.round += 1
    loop = asyncio.get_running_loop()
    traffic = Traffic([sidecar.port for sidecar in lab.sidecars], rate_per_s, lab.wanted)
    control = Traffic([lab.control.port], rate_per_s / len(lab.sidecars), lab.wanted_of_control)
    tasks = [loop.create_task(each.run()) for each in (traffic, control)]
    try:
        await asyncio.sleep(calm_s)
        await inject(lab)
        await lab.healthy()
        await asyncio.sleep(after_s)
    finally:
        traffic.stop()
        control.stop()
        await asyncio.gather(*tasks)
    return traffic.answers, control.answers
