"""The application restarts under load: requests wait for it instead of failing (`upstream.retry`)."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import aiohttp
import pytest

from tests.servers import StoreServer, free_port
from tests.sidecar import PATIENCE_S, ROOT, Sidecar, configuration

PER_S = 200
SECONDS = 3
# While the application is down, in seconds since the first request.
DOWN_FROM_S, DOWN_UNTIL_S = 1.0, 2.0


@contextlib.contextmanager
def application(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The demonstration application, once it listens."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "upstream_app" / "app.py")],
        env={**os.environ, "PORT": str(port)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline()
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
        process.stdout.close()


async def _send_at_a_rate(sidecar_port: int, statuses: Counter[int]) -> None:
    """Half of the requests are POSTs; none waits for another."""
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{sidecar_port}", connector=aiohttp.TCPConnector(limit=0)
    ) as http:

        async def send(number: int) -> None:
            await asyncio.sleep(start_s + number / PER_S - loop.time())
            method, body = ("POST", b"body") if number % 2 else ("GET", None)
            async with http.request(method, "/x", data=body) as answer:
                await answer.read()
                statuses[answer.status] += 1

        await asyncio.gather(*map(send, range(PER_S * SECONDS)))


@pytest.mark.slow
@pytest.mark.long
async def test_an_application_that_restarts_in_a_second_costs_no_request(store_server: StoreServer) -> None:
    port, statuses = free_port(), Counter[int]()
    config = configuration(store_server.url, f"http://127.0.0.1:{port}", upstream={"retry": "20s"})
    with contextlib.ExitStack() as stack:
        before = stack.enter_context(application(port))
        sidecar = stack.enter_context(Sidecar(config))
        traffic = asyncio.get_running_loop().create_task(_send_at_a_rate(sidecar.port, statuses))
        await asyncio.sleep(DOWN_FROM_S)
        before.send_signal(signal.SIGTERM)
        await asyncio.to_thread(before.wait, PATIENCE_S)
        await asyncio.sleep(DOWN_UNTIL_S - DOWN_FROM_S)
        _ = stack.enter_context(application(port))
        await traffic
    assert statuses == {200: PER_S * SECONDS}
