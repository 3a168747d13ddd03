from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.benchmarks.fake_limiter import FakeLimiter, Start


@pytest.fixture
def limiter() -> FakeLimiter:
    return FakeLimiter()


@pytest.fixture
async def start(aiohttp_server: Callable[[web.Application], Awaitable[TestServer]]) -> Start:
    """Starts three sidecars of one limiter; returns their URLs."""

    async def started(limiter: FakeLimiter) -> list[str]:
        servers = [await aiohttp_server(limiter.app()) for _ in range(3)]
        return [f"http://127.0.0.1:{server.port}" for server in servers]

    return started
