"""Periodic work on the store: announcing this proxy, counting keys, checking the eviction policy.

Requests never wait for it. Each step is bounded by `store.timeout`.
"""

import asyncio
import logging
import random
from collections.abc import Mapping
from functools import partial

from sidegate.store.awaiting import answer_of
from sidegate.store.protocol import Store
from sidegate.store.replicas import ANNOUNCE_EVERY_S, Replicas

# How often the store's keys are counted. DBSIZE takes constant time.
LOOK_EVERY_S = 60.0

# Values of maxmemory-policy that evict no bucket in use.
KEPT_POLICIES = ("noeviction", "volatile-ttl")
EVICTION_ADVICE = (
    "set maxmemory-policy volatile-ttl (a full store evicts the buckets nearest to expiry, which are nearly full, so "
    "little is admitted in excess) or noeviction (a full store refuses writes: an outage that is seen)"
)

logger = logging.getLogger(__name__)


class Housekeeping:
    """The periodic task."""

    def __init__(self, store: Store, replicas: Replicas, warn_at_buckets: int) -> None:
        self._store = store
        self._replicas = replicas
        self._loop = asyncio.get_running_loop()
        self._connected = asyncio.Event()
        self._next_look_s = 0.0
        self._warned_at = 0
        self._policy_seen: dict[str, str] = {}
        self.warn_at_buckets = warn_at_buckets
        # Keys in the store's database at the last count.
        self.keys = 0

    def connected(self) -> None:
        """Record a new connection: announce at once, and check the server."""
        self._next_look_s = 0.0
        self._connected.set()

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            self._connected.clear()
            if self._store.failure is None:
                await self._once()
            pause_s = ANNOUNCE_EVERY_S * random.uniform(0.8, 1.0)
            try:
                async with asyncio.timeout(pause_s):
                    await self._connected.wait()
            except TimeoutError:
                pass

    async def _once(self) -> None:
        # Also while no policy is `local`: an edit can change that during an outage, when nothing can be counted.
        if self._replicas.fixed is None:
            await answer_of(partial(self._replicas.announce, self._loop.time()))
        if self._loop.time() >= self._next_look_s:
            self._next_look_s = self._loop.time() + LOOK_EVERY_S
            self._note_keys(await self._each("DBSIZE"))
            for node, reply in (await self._each("INFO", "memory")).items():
                self._note_memory(node, reply)

    async def _each(self, *words: str) -> Mapping[str, object]:
        return await answer_of(partial(self._store.command_each, words))

    def _note_keys(self, replies: Mapping[str, object]) -> None:
        counts = [reply for reply in replies.values() if type(reply) is int]
        if not counts or len(counts) < len(replies):  # the sum of some nodes is no count
            return
        self.keys = sum(counts)
        if self.keys < self.warn_at_buckets:
            self._warned_at = 0
        elif self.keys >= 2 * self._warned_at:  # again when they have doubled
            self._warned_at = self.keys
            fields = {"keys": self.keys, "warn_at_buckets": self.warn_at_buckets}
            logger.warning("store_many_buckets", extra={"fields": fields})

    def _note_memory(self, node: str, reply: object) -> None:
        """Warn once of a server that may evict buckets in use. Without the right to read INFO there is no warning."""
        facts = facts_of(reply)
        policy, bound = facts.get("maxmemory_policy", ""), facts.get("maxmemory", "0")
        seen = policy if bound != "0" else ""
        if seen not in ("", *KEPT_POLICIES, self._policy_seen.get(node)):
            fields = {"maxmemory_policy": policy, "maxmemory": bound, "detail": EVICTION_ADVICE}
            logger.warning("store_evicts", extra={"fields": {**({"node": node} if node else {}), **fields}})
        self._policy_seen[node] = seen


def facts_of(info: object) -> dict[str, str]:
    """The reply to INFO as a mapping; empty for an error."""
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else ""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
