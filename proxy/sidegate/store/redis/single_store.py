"""The store on one server: the server of the URL, or the present master behind Sentinels.

All requests of one turn of the event loop are one script call.

A failover is detected in four ways, and each starts a query for the present master: a Sentinel announces it, the
connection is lost (Sentinel makes the old master close its clients' connections when it becomes a replica), the server
replies READONLY, or the Sentinels name another server while the old one still answers, as across a network partition.
No connection is used before its server has confirmed that it is a master.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from sidegate.config import StoreSettings
from sidegate.config.store_url import StoreKind
from sidegate.decision.bucket import Charge
from sidegate.decision.record import ObserveStore
from sidegate.store.protocol import Command, OnLevels, OnReplies, OnReply, StoreUnavailable
from sidegate.store.redis.batch import Batch
from sidegate.store.redis.connector import Connector
from sidegate.store.redis.node import LONGEST_PAUSE_S, Node, OnChange
from sidegate.store.redis.script import ScriptCall

# How often the Sentinels are queried while a master answers, and the longest pause between two attempts to connect:
# where no message of a Sentinel arrives, a failover is followed within about a second of its end.
QUERY_SENTINELS_EVERY_S = 0.5


class RedisStore:
    """Implements `protocol.Store`. `on_change` receives None on every new connection and the failure on every loss;
    `observe` receives a record of every call.
    """

    def __init__(self, connector: Connector, on_change: OnChange, observe: ObserveStore | None = None) -> None:
        self._connector = connector
        self._timeout_s = connector.timeout_s
        self._observe = observe
        self._by_sentinel = connector.settings.url.kind is StoreKind.SENTINEL
        self._loop = asyncio.get_running_loop()
        self._batch: Batch[OnLevels] = Batch()
        self._switched = asyncio.Event()
        self._node = Node(connector.open, on_change, QUERY_SENTINELS_EVERY_S if self._by_sentinel else LONGEST_PAUSE_S)
        self.tried = self._node.tried

    @property
    def key_prefix(self) -> str:
        return self._connector.settings.key_prefix

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
                    tasks.create_task(self._connector.watch_switches(self._switched.set))
        finally:
            await self._connector.close()

    def use(self, settings: StoreSettings) -> None:
        """Replace the connection where the credentials have changed, without losing a call."""
        if self._connector.use(settings):
            self._node.renew()

    def own_breakers(self, on_closed: Callable[[], None]) -> None:
        """None: the limiter has the breaker of the one server."""

    def ask(self, charges: Sequence[Charge], then: OnLevels) -> None:
        """Charge all buckets or none, in one call with the other requests of this turn."""
        batch = self._batch
        if not batch.charges:
            self._loop.call_soon(self._flush)
        elif not batch.has_room(charges):
            self._flush()
            batch = self._batch
        batch.add(charges, then)

    def unserved(self, key: str) -> StoreUnavailable | None:  # noqa: ARG002  (one node has all keys)
        """Why no call can be made."""
        return self.failure

    def command(self, key: str, command: Command, on_reply: OnReply) -> None:  # noqa: ARG002  (one node has all keys)
        """Send one command."""
        self._node.ask(command, on_reply)

    def command_each(self, command: Command, on_replies: OnReplies) -> None:
        """Send one command."""
        self._node.ask(command, lambda reply: on_replies({"": reply}))

    def ping(self, on_reply: OnReply) -> None:
        """Ask for a sign of life."""
        self._node.ask(("PING",), on_reply)

    async def _follow_master(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUERY_SENTINELS_EVERY_S):
                    await self._switched.wait()
            switched = self._switched.is_set()
            self._switched.clear()
            # The Sentinels are not needed while the master answers. If they name another master, the old connection
            # serves until the new one has confirmed its role.
            with contextlib.suppress(StoreUnavailable):
                if self.failure is not None:
                    if switched:
                        self._node.renew()
                elif await self._connector.master() != self._connector.connected_to:
                    self._node.renew()

    def _flush(self) -> None:
        batch, self._batch = self._batch, Batch()
        if batch.charges:
            ScriptCall(batch, self._node, self._timeout_s, self._redirect, self._observe).send()

    def _redirect(self, call: ScriptCall, text: str) -> bool:
        if text.startswith("READONLY"):
            # The master has become a replica and accepts no charge: query for the present master.
            call.finish(StoreUnavailable("readonly", text))
            self._node.drop(StoreUnavailable("readonly", text))
            return True
        return False
