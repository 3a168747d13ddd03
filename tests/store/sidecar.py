"""A limiter with its store, without the rest of a sidecar."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from sidegate.config import StoreSettings
from sidegate.decision.bucket import Charge, Limit, Rate
from sidegate.decision.policy import OnStoreFailure, Policy, PolicyMatch
from sidegate.decision.verdict import Verdict
from sidegate.store.deny_cache import DenyCache
from sidegate.store.factory import open_store
from sidegate.store.limiter import Limiter
from sidegate.store.protocol import StoreUnavailable

from tests.servers import USER

# Bounds every wait of a test; what is waited for takes milliseconds.
PATIENCE_S = 60.0
# For tests that do not want the store to be late, whatever else the machine does.
UNHURRIED_S = 10.0

HOURLY = Limit(Rate(1, 3_600_000_000), 10, 10, 3_600_000)


def hourly(burst: int) -> Limit:
    """A limit that gives `burst` and as good as nothing after it."""
    return Limit(Rate(1, 3_600_000_000), burst, burst, 3_600_000)


def asking(
    key: str,
    limit: Limit | None = HOURLY,
    cost: int = 1,
    *,
    shadow: bool = False,
    on_store_failure: OnStoreFailure = OnStoreFailure.DENY,
) -> PolicyMatch:
    """A policy that applies, on bucket `key`; a blocked key where there is no limit."""
    policy = Policy("p", limit=limit, shadow=shadow, on_store_failure=on_store_failure)
    return PolicyMatch(policy, None if limit is None else Charge(key, limit, cost, shadow))


class Sidecar:
    """One limiter. `failures` holds the reported failures of its store, None for every new connection."""

    def __init__(self, url: str, timeout_s: float, options: dict[str, Any]) -> None:
        self.failures: list[StoreUnavailable | None] = []
        self.deny_cache = DenyCache()
        if not {"username", "password"} & set(options):
            options = {**options, "username": USER, "password": USER}  # no more rights than documented
        settings = StoreSettings.model_validate({"url": url, **{key: value for key, value in options.items() if value}})
        self.store = open_store(settings, self._note, timeout_s)
        self.proxies = 1
        self.limiter = Limiter(self.store, self.deny_cache, proxies=lambda: self.proxies)
        self._changed = asyncio.Event()

    def ask(self, *applied: PolicyMatch) -> asyncio.Future[Verdict]:
        """Decide one request; the future fails where the promise to call back once is broken."""
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.limiter.decide(applied, future.set_result)
        return future

    def look(self, *applied: PolicyMatch) -> asyncio.Future[Verdict]:
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.limiter.look(applied, future.set_result)
        return future

    async def until(self, *, connected: bool) -> None:
        """Wait until the store is connected, or until it is known not to be."""
        async with asyncio.timeout(PATIENCE_S):
            while (self.store.failure is None) != connected or not self.failures:
                self._changed.clear()
                await self._changed.wait()

    def _note(self, failure: StoreUnavailable | None) -> None:
        self.failures.append(failure)
        if failure is None:
            self.limiter.connected()
        self._changed.set()


async def all_of(verdicts: Sequence[asyncio.Future[Verdict]]) -> list[Verdict]:
    """Every verdict, in order; an error where one does not come."""
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.gather(*verdicts)


@contextlib.asynccontextmanager
async def sidecar(
    url: str, *, timeout_s: float = UNHURRIED_S, connected: bool = True, **options: Any
) -> AsyncIterator[Sidecar]:
    """A sidecar that keeps itself connected while the block runs, and is connected where it begins."""
    running = Sidecar(url, timeout_s, options)
    task = asyncio.get_running_loop().create_task(running.store.keep_connected())
    try:
        await running.until(connected=connected)
        if connected:  # at whatever attempt
            running.failures[:-1] = []
        yield running
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if url.startswith("rediss"):  # uvloop closes the transports of cancelled handshakes in later turns
            await asyncio.sleep(0.05)
