"""Three sidecars with one store and 64 clients admit over HTTP exactly what the buckets hold.

The load lasts 1 s, with SIDEGATE_TEST_FULL=1 10 s, measured by the store's clock.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.recorder import Recorder
from tests.servers import StoreServer, free_port
from tests.sidecar import PATIENCE_S, Sidecar, configuration

DEMAND_S = 10.0 if os.environ.get("SIDEGATE_TEST_FULL") else 1.0
CLIENTS = 64


def policy(name: str, limit: str, burst: int) -> dict[str, object]:
    return {"name": name, "match": {"path": f"/{name}"}, "key": "header:X-User-ID", "limit": limit, "burst": burst}


@pytest.fixture(scope="module")
def ports(shared_store_server: StoreServer) -> Iterator[list[int]]:
    """Ports of three sidecars with one store."""
    recorder = Recorder()
    policies = [policy("one", "200/s", 500), policy("many", "1/s", 15)]
    config = configuration(shared_store_server.url, recorder.url, policies=policies)
    with ExitStack() as sidecars:
        sidecars.callback(recorder.stop)
        configs = [{**config, "admin": {**config["admin"], "port": free_port()}} for _ in range(3)]
        yield [sidecars.enter_context(Sidecar(each)).port for each in configs]


class Demand:
    """One client on one connection. Requests its share of the keys in turn, or the only key."""

    def __init__(self, port: int, path: str, keys: list[int], admitted: Counter[int]) -> None:
        self._port, self._path, self._keys, self._admitted = port, path, keys, admitted
        self.stopping = False

    async def run(self) -> None:
        """Send requests until `stopping`, then until each key is refused, so that no token is left."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            while not self.stopping:
                for key in self._keys:
                    await self._request(key)
            for key in self._keys:
                while await self._request(key):
                    pass
        finally:
            self._writer.close()

    async def _request(self, key: int) -> bool:
        self._writer.write(f"GET {self._path} HTTP/1.1\r\nHost: app\r\nX-User-ID: key-{key}\r\n\r\n".encode())
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
    ("path", "keys", "rate_per_s", "burst"),
    [("/one", 1, 200, 500), ("/many", 1000, 1, 15)],
    ids=["one key", "a thousand keys"],
)
async def test_three_sidecars_admit_the_burst_and_the_rate_and_no_more(
    store_server: StoreServer, ports: list[int], path: str, keys: int, rate_per_s: int, burst: int
) -> None:
    admitted: Counter[int] = Counter()
    shares = [list(range(number, keys, CLIENTS)) or [0] for number in range(CLIENTS)]
    crowd = [Demand(ports[number % 3], path, share, admitted) for number, share in enumerate(shares)]
    begun_us = store_server.time_us()
    tasks = [asyncio.get_running_loop().create_task(each.run()) for each in crowd]
    while len(admitted) < keys:
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in tasks)
    all_seen_us = store_server.time_us()
    await asyncio.sleep(DEMAND_S)
    demanded_us = store_server.time_us() - all_seen_us
    for each in crowd:
        each.stopping = True
    await asyncio.gather(*tasks)
    ended_us = store_server.time_us() - begun_us
    assert max(admitted.values()) <= burst + rate_per_s * ended_us / 1e6
    assert min(admitted.values()) >= 0.99 * (burst + rate_per_s * demanded_us / 1e6)
