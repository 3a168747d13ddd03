"""`local` over many short outages: together they add one burst, and the rate over their time, to what a key is admitted."""

import asyncio
import contextlib
from collections.abc import Iterator

from tests.chaos.shares import Stage, counted, stage
from tests.chaos.storms import Outcome
from tests.chaos.traffic import Traffic, Wanted
from tests.raw_client import get

RATE_PER_S, BURST = 20, 100
OFFERED_PER_S = 10 * RATE_PER_S


async def repeated(outages: int = 5, lasting_s: float = 1.0, apart_s: float = 7.0) -> Outcome:
    """A store that hangs again and again, and one greedy user of three sidecars."""
    with stage(0.0) as on:
        sidecars = [on.start(on.config(limit=f"{RATE_PER_S}/s", burst=BURST)) for _ in range(3)]
        await counted(sidecars)
        traffic = Traffic(
            [each.port for each in sidecars], OFFERED_PER_S, lambda number: Wanted("shared", "greedy", f"/{number}")
        )
        loop = asyncio.get_running_loop()
        began_s, away_s = loop.time(), 0.0
        task = loop.create_task(traffic.run())
        for _ in range(outages):
            await asyncio.sleep(apart_s - lasting_s)
            hung_s = loop.time()
            with _hung(on):
                await asyncio.sleep(lasting_s)
            while not all([await _decides(each.port) for each in sidecars]):
                await asyncio.sleep(0.01)
            away_s += loop.time() - hung_s
        traffic.stop()
        await task
        took_s = loop.time() - began_s
        admitted = sum(each.status == 200 for each in traffic.answers)
        bound = int(2 * BURST + RATE_PER_S * (took_s + away_s)) + 1
        faults = [] if admitted <= bound else [f"{admitted} of {bound}"]
        if len(traffic.answers) < 2 * bound:
            faults.append(f"{len(traffic.answers)} requests, too few to exceed the bound")
        if other := {each.status for each in traffic.answers} - {200, 429}:
            faults.append(f"answers {sorted(other)}")
        text = f"{outages} outages of {lasting_s:g} s each {apart_s:g} s, away for {away_s:.1f} s"
        return f"{text}: {admitted} admitted of {bound}", faults


@contextlib.contextmanager
def _hung(on: Stage) -> Iterator[None]:
    on.store.pause()
    try:
        yield
    finally:
        on.store.resume()


async def _decides(port: int) -> bool:
    """Whether the sidecar uses its store."""
    page = await asyncio.to_thread(get, port, "/health", "Connection: close")
    return bool(page.json()["status"] == "ok")
