"""`local` where the number of proxies is not settled: what all proxies admit of one limit in an outage, case by case.

Each case prepares sidecars and a store, ends the store, and returns the sidecars that are left; then one greedy user asks
all of them. Of a limit of BURST, they may admit that and the rate over the outage, and one share for each start in it.
"""

import asyncio
import contextlib
import math
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence

import yaml

from tests.chaos.fault_proxy import FaultProxy, swallows
from tests.chaos.lab import application
from tests.chaos.storms import Outcome
from tests.chaos.traffic import Traffic, Wanted
from tests.raw_client import get
from tests.recorder import eventually
from tests.servers import StoreServer, free_port
from tests.sidecar import Config, Sidecar, configuration

BURST = 60
WORKERS = 4
# To all sidecars together.
REQUESTS = 450


class Stage:
    """A store, and sidecars on it; `cut_off_s` is how long one of them is cut off from the store."""

    def __init__(self, stack: contextlib.ExitStack, app_port: int, cut_off_s: float) -> None:
        self.cut_off_s = cut_off_s
        self.store = StoreServer()
        self.began_s = 0.0
        self.starts = 0  # of processes with a share of their own, during the outage
        self.admitted = 0
        self.least = 0
        self._stack = stack
        self._app_port = app_port
        stack.callback(self.store.stop)

    def relay(self) -> FaultProxy:
        """A way to the store that can be cut off."""
        relay = FaultProxy(self.store.port)
        self._stack.callback(relay.stop)
        return relay

    def config(
        self,
        url: str = "",
        on_failure: str = "local",
        workers: int = 1,
        limit: str = f"{BURST}/minute",
        burst: int = BURST,
    ) -> Config:
        """One policy."""
        policy = {"name": "shared", "key": "header:X-User-ID", "limit": limit, "burst": burst}
        return configuration(
            url or self.store.url,
            f"http://127.0.0.1:{self._app_port}",
            policies=[policy],
            listen={"port": free_port(), "workers": workers},
            store={"on_failure": on_failure, "timeout": "200ms"},
            log={"requests": "none"},
        )

    def start(self, config: Config) -> Sidecar:
        """A sidecar, stopped at the end if not before."""
        sidecar = self._stack.enter_context(Sidecar(config))
        sidecar.may_complain = True  # worker_died is an error
        return sidecar

    async def trio(self, on_failure: str = "local") -> list[Sidecar]:
        """Three sidecars that have counted each other."""
        sidecars = [self.start(self.config(on_failure=on_failure)) for _ in range(3)]
        await counted(sidecars)
        return sidecars

    async def ask(self, sidecars: Sequence[Sidecar], requests: int) -> None:
        """One user asks each sidecar so many times, by as many connections."""
        traffic = Traffic([each.port for each in sidecars], 0, lambda number: Wanted("shared", "greedy", f"/{number}"))
        self.admitted += await traffic.volley(requests * len(sidecars))

    def end_store(self) -> None:
        """Begin the outage."""
        self.store.kill()
        self.began_s = asyncio.get_running_loop().time()


@contextlib.contextmanager
def stage(cut_off_s: float) -> Iterator[Stage]:
    with application("forgetful") as app_port, contextlib.ExitStack() as stack:
        yield Stage(stack, app_port, cut_off_s)


def edit(sidecar: Sidecar, on_failure: str) -> None:
    """Change the failure mode, and wait until it is in force."""
    config = {**sidecar.config, "store": {**sidecar.config["store"], "on_failure": on_failure}}
    after = sidecar.config_file.with_suffix(".new")
    after.write_text(yaml.safe_dump(config))
    after.replace(sidecar.config_file)
    sidecar.wait_for_event("config_reloaded")


async def counted(sidecars: Sequence[Sidecar]) -> None:
    """Wait until each of the sidecars has counted them all, and they have had the time to count it."""

    def count(sidecar: Sidecar) -> int:
        metrics = get(sidecar.admin_port, "/metrics", "Connection: close").body.decode()
        (line,) = [line for line in metrics.splitlines() if line.startswith("sidegate_store_proxies ")]
        return int(float(line.split()[1]))

    def all_counted() -> bool:
        return all(count(each) == len(sidecars) for each in sidecars)

    await asyncio.to_thread(eventually, all_counted, "the count of all")


# -- the cases --------------------------------------------------------------------------------------------------------

Case = Callable[[Stage], Awaitable[list[Sidecar]]]


async def edited_in_an_outage(on: Stage) -> list[Sidecar]:
    """`deny` becomes `local` after the store has gone."""
    sidecars = await on.trio("deny")
    on.end_store()
    for sidecar in sidecars:
        await asyncio.to_thread(edit, sidecar, "local")
    on.least = BURST // 2
    return sidecars


async def edited_just_before(on: Stage) -> list[Sidecar]:
    """`deny` becomes `local` a second before the store goes."""
    sidecars = await on.trio("deny")
    for sidecar in sidecars:
        await asyncio.to_thread(edit, sidecar, "local")
    await asyncio.sleep(1)
    on.end_store()
    on.least = BURST // 2
    return sidecars


async def workers_without_a_store(on: Stage) -> list[Sidecar]:
    """One sidecar of several workers starts while the store is away."""
    on.end_store()
    sidecar = on.start(on.config(workers=WORKERS))
    await asyncio.to_thread(sidecar.wait_for_event, "workers_ready")
    on.least = BURST // 2
    return [sidecar]


async def emptied_twice(on: Stage) -> list[Sidecar]:
    """The store restarts empty twice, and then goes."""
    sidecars = await on.trio()
    for connected in (2, 3):
        await asyncio.to_thread(on.store.kill)
        await asyncio.to_thread(on.store.start)
        for sidecar in sidecars:
            await asyncio.to_thread(sidecar.wait_for_event, "store_connected", connected)
    on.end_store()
    on.least = BURST // 2
    return sidecars


async def one_cut_off(on: Stage) -> list[Sidecar]:
    """One sidecar loses the store for some time before all do."""
    relay = on.relay()
    sidecars = [on.start(on.config(relay.url)), on.start(on.config()), on.start(on.config())]
    await counted(sidecars)
    relay.fault = swallows
    await asyncio.sleep(on.cut_off_s)
    on.end_store()
    on.least = BURST // 2
    return sidecars


async def workers_killed(on: Stage) -> list[Sidecar]:
    """A worker dies three times during the outage."""
    sidecar = on.start(on.config(workers=WORKERS))
    await asyncio.to_thread(sidecar.wait_for_event, "workers_ready")
    on.end_store()
    for died in range(1, 4):
        last = [line["pid"] for line in sidecar.events("started") if line["worker"] == 1][-1]
        os.kill(last, signal.SIGKILL)
        await asyncio.to_thread(sidecar.wait_for_event, "started", WORKERS + died)
        await on.ask([sidecar], 100)  # before the next one dies
    on.starts = 3
    return [sidecar]


async def started_in_a_row(on: Stage) -> list[Sidecar]:
    """Three sidecars start within five seconds, and the store goes."""
    sidecars = []
    for _ in range(3):
        sidecars.append(on.start(on.config()))
        await asyncio.sleep(0.5)
    on.end_store()
    return sidecars


async def rolling_restart(on: Stage) -> list[Sidecar]:
    """Each sidecar is replaced by a new one before the store goes: those that stopped count no longer."""
    before = await on.trio()
    after = []
    for sidecar in before:
        await asyncio.to_thread(sidecar.stop)
        after.append(on.start(on.config()))
    await counted(after)
    on.end_store()
    on.least = BURST - 5
    return after


CASES: list[Case] = [
    edited_in_an_outage,
    edited_just_before,
    workers_without_a_store,
    emptied_twice,
    one_cut_off,
    workers_killed,
    started_in_a_row,
    rolling_restart,
]


# -- their check ------------------------------------------------------------------------------------------------------


async def shares(case: Case, cut_off_s: float = 30.0) -> Outcome:
    """Run one case. Faults where more was admitted than the limit allows, or less than the case leaves."""
    with stage(cut_off_s) as on:
        sidecars = await case(on)
        await on.ask(sidecars, REQUESTS // len(sidecars))
        outage_s = asyncio.get_running_loop().time() - on.began_s
        bound = BURST + math.ceil(BURST / 60 * outage_s) + on.starts * BURST // WORKERS
        faults = [] if on.least <= on.admitted <= bound else [f"not {on.least} to {bound}"]
        return f"local, {(case.__doc__ or '').removesuffix('.')}: {on.admitted} admitted of {bound}", faults
