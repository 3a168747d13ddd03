"""One server of the store, with one connection that is kept open.

Without a connection every call fails at once; no request waits for a connection. One task reconnects with growing,
jittered pauses. A connection that was lost before it answered a call counts as a failed attempt, so that a server
that closes every connection does not receive a storm of them.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable

from sidegate.config.store_url import Address
from sidegate.store.protocol import CheckLate, Command, OnReply, StoreUnavailable
from sidegate.store.redis.call_queue import CallQueue
from sidegate.store.redis.connection import MultiplexedConnection

# Pauses between attempts to connect: doubling, each drawn between half and all of it so that many proxies spread out.
# The longest bounds the delay until a store that is back is used.
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
# After a connection that answered a call and lasted this long, the next attempt is made at once.
STEADY_S = 0.05
# After one that answered no call but lasted this long, too: there was nothing to answer.
IDLE_STEADY_S = 1.0

# The address of a store that is only one server.
ANY_ADDRESS = Address("", 0)

# Opens a connection to the server at its present address. Raises StoreUnavailable.
Connect = Callable[[], Awaitable[MultiplexedConnection]]
OnChange = Callable[[StoreUnavailable | None], None]


class Node:
    """One server. `on_change` receives None on every new connection, and the failure on every loss."""

    def __init__(
        self,
        connect: Connect,
        on_change: OnChange,
        longest_pause_s: float = LONGEST_PAUSE_S,
        address: Address = ANY_ADDRESS,
    ) -> None:
        self.address = address
        self._open = connect
        self._on_change = on_change
        self._longest_pause_s = longest_pause_s
        self._loop = asyncio.get_running_loop()
        self._connection: MultiplexedConnection | None = None
        self._renewal = asyncio.Event()
        self._failed_attempts = 0
        self._early: list[Callable[[], None]] = []
        self.queue = CallQueue()
        self.failure: StoreUnavailable | None = StoreUnavailable("starting", "not connected yet")
        self.tried = asyncio.Event()  # set when the first attempt to connect has ended

    def ask(self, command: Command, on_reply: OnReply, check_late: CheckLate | None = None) -> None:
        """Send one command; `on_reply` is called once, within the timeout, possibly before this returns."""
        connection = self._connection
        if connection is None:
            on_reply(self.failure or StoreUnavailable("connect"))
        else:
            connection.ask(command, on_reply, check_late)

    def once_tried(self, action: Callable[[], None]) -> None:
        """Run `action` once the first attempt to connect has ended; at once if it has."""
        if self.tried.is_set():
            action()
        else:
            self._early.append(action)

    def renew(self) -> None:
        """Replace the connection as soon as a new one is open; the old one still delivers its replies.

        Without a connection, try to connect without a further pause.
        """
        self._renewal.set()

    def drop(self, failure: StoreUnavailable) -> None:
        """Close the connection, since it leads to the wrong server; calls in flight fail."""
        if self._connection is not None:
            self._connection.close(failure)

    async def keep_connected(self) -> None:
        """Connect, and connect again whenever the connection is lost. Runs until cancelled."""
        try:
            while True:
                self._connection = await self._connect()
                self._changed(None)
                self._has_tried()
                begun_s = time.monotonic()
                lost = await self._hold()
                answered, self._connection = self._connection.answered, None
                self._count_loss(answered, time.monotonic() - begun_s)
                self._changed(lost)
        finally:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    async def _connect(self) -> MultiplexedConnection:
        while True:
            if self._failed_attempts:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s(self._failed_attempts - 1)):
                        await self._renewal.wait()
            self._renewal.clear()
            try:
                return await self._open()
            except StoreUnavailable as error:
                self._failed_attempts += 1
                self._changed(error)
                self._has_tried()

    async def _hold(self) -> StoreUnavailable:
        """Wait until the connection is lost; replace it on request."""
        failed = 0
        while True:
            connection = self._connection
            if connection is None:
                raise AssertionError("held without a connection")
            wanted = self._loop.create_task(self._renewal.wait())
            try:
                await asyncio.wait((connection.closed, wanted), return_when=asyncio.FIRST_COMPLETED)
            finally:
                wanted.cancel()
            if connection.closed.done():
                return connection.closed.result()
            self._renewal.clear()
            try:
                self._connection = await self._open()
            except StoreUnavailable:
                # The old connection still works; it serves until the store accepts the new credentials.
                await asyncio.wait((connection.closed,), timeout=self._pause_s(failed))
                failed += 1
                self._renewal.set()
            else:
                failed = 0
                connection.retire()

    def _count_loss(self, answered: bool, lasted_s: float) -> None:
        """Set the pause after a lost connection: none, the first one, or a longer one."""
        if lasted_s >= (STEADY_S if answered else IDLE_STEADY_S):
            self._failed_attempts = 0
        else:
            self._failed_attempts = 1 if answered else self._failed_attempts + 1

    def _has_tried(self) -> None:
        self.tried.set()
        early, self._early = self._early, []
        for action in early:
            action()

    def _pause_s(self, attempt: int) -> float:
        longest_s = min(self._longest_pause_s, FIRST_PAUSE_S * 2.0 ** min(attempt, 10))
        return longest_s * random.uniform(0.5, 1)

    def _changed(self, failure: StoreUnavailable | None) -> None:
        before, self.failure = self.failure, failure
        if (before is None) != (failure is None) or (before and failure and before.reason != failure.reason):
            self._on_change(failure)
