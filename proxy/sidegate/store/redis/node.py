"""One server of the store: keeps one connection to it open.

While there is no connection every question fails at once, which is what bounds an outage: no request waits for a
connection to be made. Reconnecting is one task with growing, jittered pauses. A connection that is lost as soon as it
is made counts as an attempt that failed, so that a server that hangs up on everybody is not stormed.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

from sidegate.config.store_url import Address
from sidegate.store.protocol import Command, OnReply, StoreUnavailable
from sidegate.store.redis.connection import MultiplexedConnection

# Pauses between attempts to connect: doubling, each drawn between half and all of it so that many proxies spread out.
# The longest bounds how late a returned store is noticed.
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
# A connection that lasted this long was a good one: the next attempt after it is made at once.
STEADY_S = 1.0

# Where a server is that is not told from others by its address.
SOMEWHERE = Address("", 0)

# Opens a connection to the server, wherever it is now. Raises StoreUnavailable.
Dial = Callable[[], Awaitable[MultiplexedConnection]]
OnChange = Callable[[StoreUnavailable | None], None]


class Node:
    """One server. `on_change` is told of every change between connected (None) and not (why)."""

    def __init__(
        self,
        dial: Dial,
        on_change: OnChange,
        longest_pause_s: float = LONGEST_PAUSE_S,
        address: Address = SOMEWHERE,
    ) -> None:
        self.address = address
        self._dial = dial
        self._on_change = on_change
        self._longest_pause_s = longest_pause_s
        self._loop = asyncio.get_running_loop()
        self._connection: MultiplexedConnection | None = None
        self._renewal = asyncio.Event()
        self._failed_attempts = 0
        self._early: list[Callable[[], None]] = []
        self.failure: StoreUnavailable | None = StoreUnavailable("starting", "not connected yet")
        self.tried = asyncio.Event()  # whether the first attempt to connect has ended, either way

    def ask(self, command: Command, on_reply: OnReply) -> None:
        """Send one command; `on_reply` is called once, within the timeout, possibly before this returns."""
        connection = self._connection
        if connection is None:
            on_reply(self.failure or StoreUnavailable("connect"))
        else:
            connection.ask(command, on_reply)

    def once_tried(self, action: Callable[[], None]) -> None:
        """Do something once the first attempt to connect has ended; at once if it has."""
        if self.tried.is_set():
            action()
        else:
            self._early.append(action)

    def renew(self) -> None:
        """Go over to a new connection as soon as one can be had; the old one answers what it was asked."""
        self._renewal.set()

    def drop(self, failure: StoreUnavailable) -> None:
        """Give the connection up, since it leads to the wrong server; what waits on it fails."""
        if self._connection is not None:
            self._connection.close(failure)

    async def keep_connected(self) -> None:
        """Connect, and connect again whenever the connection is lost. Runs until cancelled."""
        try:
            while True:
                self._connection = await self._connect()
                self._changed(None)
                self._has_tried()
                begun_s = self._loop.time()
                lost = await self._hold()
                self._connection = None
                self._failed_attempts = 0 if self._loop.time() - begun_s >= STEADY_S else self._failed_attempts + 1
                self._changed(lost)
        finally:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    async def _connect(self) -> MultiplexedConnection:
        while True:
            if self._failed_attempts:
                await asyncio.sleep(self._pause_s(self._failed_attempts - 1))
            self._renewal.clear()
            try:
                return await self._dial()
            except StoreUnavailable as error:
                self._failed_attempts += 1
                self._changed(error)
                self._has_tried()

    async def _hold(self) -> StoreUnavailable:
        """Wait until the connection is lost, replacing it where that is wanted."""
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
                self._connection = await self._dial()
            except StoreUnavailable:
                # The old connection still works, and must do while the store does not know the new credentials yet.
                await asyncio.wait((connection.closed,), timeout=self._pause_s(failed))
                failed += 1
                self._renewal.set()
            else:
                failed = 0
                connection.retire()

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
