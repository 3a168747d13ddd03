"""Three sidecar processes, one store, 64 clients: what is admitted over HTTP is what the buckets hold, no more, no less.

The demand lasts 3 s, with SIDEGATE_TEST_FULL=1 10 s; the store's clock measures it.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.recorder import Recorder
from tests.servers import StoreServer
from tests.sidecar import PATIENCE_S, Sidecar, configuration

DEMAND_S = 10.0 if os.environ.get("SIDEGATE_TEST_FULL") else 3.0
CLIENTS = 64


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    each = Recorder()
    yield each
    each.stop()


class Demand:
    """One client on one kept connection, asking for its share of the keys in turn (or for the only one)."""

    def __init__(self, port: int, keys: list[int], admitted: Counter[int]) -> None:
        self._port, self._keys, self._admitted = port, keys, admitted
        self.stopping = False

    async def run(self) -> None:
        """Ask until told to stop; then on, until each key is refused: nothing that grew may be left."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            while not self.stopping:
                for key in self._keys:
                    await self._ask(key)
            for key in self._keys:
                while await self._ask(key):
                    pass
        finally:
            self._writer.close()

    async def _ask(self, key: int) -> bool:
        self._writer.write(b"GET /exact HTTP/1.1\r\nHost: app\r\nX-User-ID: key-%d\r\n\r\n" % key)
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        await self._reader.readexactly(int(length))
        status = head[9:12]
        assert status in (b"200", b"429"), head
        self._admitted[key] += status == b"200"
        return status == b"200"


@pytest.mark.slow
@pytest.mark.timeout(60 + 3 * DEMAND_S)
@pytest.mark.parametrize(
    ("keys", "rate_per_s", "burst"), [(1, 200, 500), (1000, 1, 15)], ids=["one key", "a thousand keys"]
)
async def test_three_sidecars_admit_burst_and_rate_and_nothing_else(
    store_server: StoreServer, recorder: Recorder, keys: int, rate_per_s: int, burst: int
) -> None:
    policy = {"name": "exact", "key": "header:X-User-ID", "limit": f"{rate_per_s}/s", "burst": burst}
    config = [configuration(store_server.url, recorder.url, policies=[policy]) for _ in range(3)]
    sidecars = await asyncio.gather(*(asyncio.to_thread(Sidecar, each) for each in config))
    admitted: Counter[int] = Counter()
    try:
        shares = [list(range(number, keys, CLIENTS)) or [0] for number in range(CLIENTS)]
        crowd = [Demand(sidecars[number % 3].port, share, admitted) for number, share in enumerate(shares)]
        begun_us = store_server.time_us()
        tasks = [asyncio.get_running_loop().create_task(each.run()) for each in crowd]
        while len(admitted) < keys:
            await asyncio.sleep(0.01)
            assert not any(task.done() for task in tasks)
        all_asked_us = store_server.time_us()
        await asyncio.sleep(DEMAND_S)
        demanded_us = store_server.time_us() - all_asked_us
        for each in crowd:
            each.stopping = True
        await asyncio.gather(*tasks)
        ended_us = store_server.time_us() - begun_us
    finally:
        for sidecar in sidecars:
            await asyncio.to_thread(sidecar.stop)
    assert max(admitted.values()) <= burst + rate_per_s * ended_us / 1e6
    assert min(admitted.values()) >= 0.99 * (burst + rate_per_s * demanded_us / 1e6)
