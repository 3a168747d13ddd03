"""The present tokens of buckets, asked of the store through the script that decides, at no cost."""

import asyncio
from collections.abc import Sequence

from sidegate.config import StoreSettings
from sidegate.decision.policy import PolicyMatch
from sidegate.decision.verdict import DecisionSource, Verdict
from sidegate.store.deny_cache import DenyCache
from sidegate.store.factory import open_store
from sidegate.store.limiter import Limiter
from sidegate.store.protocol import StoreUnavailable

# A person waits, not a request: longer than `store.timeout`, short enough to wait for.
PATIENCE_S = 2.0


def present_levels(settings: StoreSettings, applied: Sequence[PolicyMatch]) -> Verdict:
    """The verdict of a look: levels as they are, nothing taken. Raises StoreUnavailable, within PATIENCE_S."""
    return asyncio.run(_look(settings, applied))


async def _look(settings: StoreSettings, applied: Sequence[PolicyMatch]) -> Verdict:
    loop = asyncio.get_running_loop()
    store = open_store(settings, lambda _: None, PATIENCE_S)
    found: asyncio.Future[Verdict] = loop.create_future()
    keeping = loop.create_task(store.keep_connected())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await store.tried.wait()
            if store.failure is not None:
                raise store.failure
            Limiter(store, DenyCache()).look(applied, lambda seen: None if found.done() else found.set_result(seen))
            verdict = await found
    except TimeoutError:
        raise store.failure or StoreUnavailable("timeout", f"no answer within {PATIENCE_S:g} s") from None
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    if verdict.decided_by is DecisionSource.STORE_FAILURE:
        raise StoreUnavailable(verdict.reason)
    return verdict
