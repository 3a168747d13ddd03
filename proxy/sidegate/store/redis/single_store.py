"""The shared store where it is one server: the one that the URL names, or the one that Sentinels name at present.

All questions of one turn of the event loop are one script call.

A failover shows in three ways, and each leads to the question who the master is now: the connection is lost (Sentinel
has the old master hang up on its clients when it makes a replica of it), the server answers READONLY, or the Sentinels
name another server while the old one still answers, as it may on the far side of a broken network. No connection is
used before its server has said that it is a master.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from sidegate.config import StoreSettings
from sidegate.config.store_url import StoreKind
from sidegate.decision.bucket import Charge
from sidegate.decision.record import ObserveStore
from sidegate.store.protocol import Command, OnLevels, OnReply, StoreUnavailable
from sidegate.store.redis.batch import LARGEST_BATCH, Batch
from sidegate.store.redis.connector import Dialer
from sidegate.store.redis.node import LONGEST_PAUSE_S, Node, OnChange
from sidegate.store.redis.script import ScriptCall

# How often the Sentinels are asked while a master answers, and the longest pause between two attempts to reach one:
# with the time to open a connection well under a second, so that a failover is followed within a second of its end.
ASK_SENTINELS_EVERY_S = 0.5


class RedisStore:
    """Fulfils `seam.Store`. `on_change` is told of every change between connected (None) and not (why), `observe` of
    every call.
    """

    def __init__(self, dialer: Dialer, on_change: OnChange, observe: ObserveStore | None = None) -> None:
        self._dialer = dialer
        self._timeout_s = dialer.timeout_s
        self._observe = observe
        self._by_sentinel = dialer.settings.url.kind is StoreKind.SENTINEL
        self._loop = asyncio.get_running_loop()
        self._batch: Batch[OnLevels] = Batch()
        self._node = Node(dialer.open, on_change, ASK_SENTINELS_EVERY_S if self._by_sentinel else LONGEST_PAUSE_S)
        self.tried = self._node.tried

    @property
    def failure(self) -> StoreUnavailable | None:
        return self._node.failure

    async def keep_connected(self) -> None:
        """Connect, and connect again whenever the connection is lost. Runs until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._node.keep_connected())
                if self._by_sentinel:
                    tasks.create_task(self._follow_master())
        finally:
            await self._dialer.close()

    def use(self, settings: StoreSettings) -> None:
        """Go over to a connection opened with these credentials, losing no question."""
        if self._dialer.use(settings):
            self._node.renew()

    def own_breakers(self, on_closed: Callable[[], None]) -> None:
        """None: there is one server, and the limiter stands before it."""

    def ask(self, charges: Sequence[Charge], then: OnLevels) -> None:
        """Charge all buckets or none, together with what else is asked in this turn."""
        waiting = self._batch.add(charges, then)
        if waiting == 1:
            self._loop.call_soon(self._flush)
        elif waiting == LARGEST_BATCH:
            self._flush()

    def command(self, key: str, command: Command, on_reply: OnReply) -> None:  # noqa: ARG002  (one node has all keys)
        """Send one command."""
        self._node.ask(command, on_reply)

    def ping(self, on_reply: OnReply) -> None:
        """Ask for a sign of life."""
        self._node.ask(("PING",), on_reply)

    async def _follow_master(self) -> None:
        while True:
            await asyncio.sleep(ASK_SENTINELS_EVERY_S)
            # The Sentinels are not needed as long as their master answers: they may come and go. Where they name
            # another, the old connection serves until the other says itself that it is a master.
            with contextlib.suppress(StoreUnavailable):
                if self.failure is None and await self._dialer.master() != self._dialer.dialled:
                    self._node.renew()

    def _flush(self) -> None:
        batch, self._batch = self._batch, Batch()
        if len(batch):  # else it was full, and has been sent
            ScriptCall(batch, self._node, self._timeout_s, self._redirect, self._observe).send()

    def _redirect(self, call: ScriptCall, text: str) -> bool:
        if text.startswith("READONLY"):
            # The master has become a replica: nothing can be charged here any more. Ask anew who is the master.
            call.finish(StoreUnavailable("readonly", text))
            self._node.drop(StoreUnavailable("readonly", text))
            return True
        return False
