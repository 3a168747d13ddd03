"""Reads the present tokens of buckets from the store, with the deciding script and without a charge."""

import asyncio
from collections.abc import Sequence
from functools import partial

from sidegate.config import StoreSettings
from sidegate.decision.policy import PolicyMatch
from sidegate.decision.verdict import DecisionSource, Verdict
from sidegate.store.awaiting import answer_of
from sidegate.store.deny_cache import DenyCache
from sidegate.store.factory import open_store
from sidegate.store.limiter import Limiter
from sidegate.store.protocol import StoreUnavailable

# A command at a terminal may wait longer than `store.timeout`, which is for requests.
TIMEOUT_S = 2.0


def present_levels(settings: StoreSettings, applied: Sequence[PolicyMatch]) -> Verdict | str:
    """A verdict with the present levels, or why the store did not answer within TIMEOUT_S; nothing is charged."""
    try:
        return asyncio.run(_look(settings, applied))
    except StoreUnavailable as error:
        return f"the store at {settings.url} does not answer: {error} ({error.reason})"


async def _look(settings: StoreSettings, applied: Sequence[PolicyMatch]) -> Verdict:
    loop = asyncio.get_running_loop()
    store = open_store(settings, lambda _: None, TIMEOUT_S)
    keeping = loop.create_task(store.keep_connected())
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await store.tried.wait()
            if store.failure is not None:
                raise store.failure
            verdict: Verdict = await answer_of(partial(Limiter(store, DenyCache()).look, applied))
    except TimeoutError:
        raise store.failure or StoreUnavailable("timeout", f"no answer within {TIMEOUT_S:g} s") from None
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    if verdict.decided_by is DecisionSource.STORE_FAILURE:
        raise StoreUnavailable(verdict.reason)
    return verdict
