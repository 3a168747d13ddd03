"""The shared store: keeps one connection to it open, and runs the bucket script on it.

While there is no connection every question fails at once, which is what bounds an outage: no request waits for a
connection to be made. Reconnecting is one task with growing, jittered pauses.
"""

import asyncio
import random
from collections.abc import Callable
from hashlib import sha1
from importlib.resources import files
from itertools import count
from typing import Any

from redis.asyncio.connection import ConnectionPool

from proxy.store.batch import Batch
from proxy.store.connection import MultiplexedConnection, OnReply, ReplyError, StoreUnavailable, open_connection

SCRIPT = files(__package__).joinpath("bucket.lua").read_text("utf-8")
SCRIPT_SHA = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

# Pauses between attempts to connect: doubling, each drawn between half and all of it so that many proxies spread out.
# The longest bounds how late a returned store is noticed.
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


class RedisStore:
    """One store. `on_change` is told of every change between connected (None) and not (why)."""

    def __init__(
        self, pool: ConnectionPool, timeout_s: float, on_change: Callable[[StoreUnavailable | None], None]
    ) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._on_change = on_change
        self._connection: MultiplexedConnection | None = None
        self.failure: StoreUnavailable | None = StoreUnavailable("starting", "not connected yet")
        self.tried = asyncio.Event()  # whether the first attempt to connect has ended, either way

    async def keep_connected(self) -> None:
        """Connect, and connect again whenever the connection is lost. Runs until cancelled."""
        try:
            while True:
                self._connection = await self._connect()
                self._changed(None)
                self.tried.set()
                lost = await self._connection.closed
                self._connection = None
                self._changed(lost)
        finally:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def run(self, batch: Batch[Any], on_reply: OnReply) -> None:
        """Run the script for a batch. Safe to repeat only where the store says that it did not run (NOSCRIPT)."""
        connection = self._connection
        if connection is None:
            on_reply(self.failure or StoreUnavailable("connect"))
            return
        arguments = batch.arguments()

        def check(reply: object) -> None:
            if isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT"):
                connection.ask(("EVAL", SCRIPT, *arguments), on_reply)
            else:
                on_reply(reply)

        connection.ask(("EVALSHA", SCRIPT_SHA, *arguments), check)

    def ping(self, on_reply: OnReply) -> None:
        """Ask for a sign of life."""
        if self._connection is None:
            on_reply(self.failure or StoreUnavailable("connect"))
        else:
            self._connection.ask(("PING",), on_reply)

    async def _connect(self) -> MultiplexedConnection:
        for attempt in count():
            try:
                return await open_connection(self._pool, self._timeout_s)
            except StoreUnavailable as error:
                self._changed(error)
                self.tried.set()
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(attempt, 10))
            await asyncio.sleep(pause_s * random.uniform(0.5, 1))
        raise AssertionError("unreachable")

    def _changed(self, failure: StoreUnavailable | None) -> None:
        before, self.failure = self.failure, failure
        if (before is None) != (failure is None) or (before and failure and before.reason != failure.reason):
            self._on_change(failure)
