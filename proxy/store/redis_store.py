"""The shared store where it is one server: keeps one connection to it open, and runs the bucket script on it.

All questions of one turn of the event loop are one script call. While there is no connection every question fails at
once, which is what bounds an outage: no request waits for a connection to be made. Reconnecting is one task with
growing, jittered pauses.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from hashlib import sha1
from importlib.resources import files
from itertools import count

from redis.asyncio.connection import ConnectionPool

from proxy.decision.bucket import Charge
from proxy.decision.record import ObserveStore, StoreCall
from proxy.store.batch import LARGEST_BATCH, BadReply, Batch
from proxy.store.connection import MultiplexedConnection, ReplyError, open_connection
from proxy.store.seam import Command, Levels, OnLevels, OnReply, StoreUnavailable

SCRIPT = files(__package__).joinpath("bucket.lua").read_text("utf-8")
SCRIPT_SHA = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

# Pauses between attempts to connect: doubling, each drawn between half and all of it so that many proxies spread out.
# The longest bounds how late a returned store is noticed.
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0

logger = logging.getLogger(__name__)


class RedisStore:
    """Fulfils `seam.Store`. `on_change` is told of every change between connected (None) and not (why), `observe` of
    every call.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        timeout_s: float,
        on_change: Callable[[StoreUnavailable | None], None],
        observe: ObserveStore | None = None,
    ) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._on_change = on_change
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._connection: MultiplexedConnection | None = None
        self._batch: Batch[OnLevels] = Batch()
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

    def ask(self, charges: Sequence[Charge], then: OnLevels) -> None:
        """Charge all buckets or none, together with what else is asked in this turn."""
        waiting = self._batch.add(charges, then)
        if waiting == 1:
            self._loop.call_soon(self._flush)
        elif waiting == LARGEST_BATCH:
            self._flush()

    def command(self, key: str, command: Command, on_reply: OnReply) -> None:  # noqa: ARG002  (one node has all keys)
        """Send one command."""
        connection = self._connection
        if connection is None:
            on_reply(self.failure or StoreUnavailable("connect"))
        else:
            connection.ask(command, on_reply)

    def ping(self, on_reply: OnReply) -> None:
        """Ask for a sign of life."""
        self.command("", ("PING",), on_reply)

    def _flush(self) -> None:
        batch, self._batch = self._batch, Batch()
        if not len(batch):
            return  # it was full, and has been sent
        asked_s = time.monotonic()
        connection = self._connection
        if connection is None:
            self._deliver(batch, self.failure or StoreUnavailable("connect"), asked_s)
            return
        arguments = batch.arguments()

        def check(reply: object) -> None:
            # Safe to repeat only where the store says that it did not run.
            if isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT"):
                connection.ask(("EVAL", SCRIPT, *arguments), lambda reply: self._deliver(batch, reply, asked_s))
            else:
                self._deliver(batch, reply, asked_s)

        connection.ask(("EVALSHA", SCRIPT_SHA, *arguments), check)

    def _deliver(self, batch: Batch[OnLevels], reply: object, asked_s: float) -> None:
        failure = _failure(reply)
        if self._observe is not None:
            self._observe(StoreCall(len(batch), time.monotonic() - asked_s, failure.reason if failure else ""))
        _deliver(batch, failure or reply, asked_s)

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


def _deliver(batch: Batch[OnLevels], reply: object, asked_s: float) -> None:
    """Give everyone in the batch an answer. Raises BadReply where the reply cannot be the script's."""
    if isinstance(reply, StoreUnavailable):
        for then in batch.waiters():
            _call(then, reply, asked_s)
        return
    try:
        pairs = batch.deliver(reply)
    except BadReply as error:
        for then in batch.waiters():
            _call(then, StoreUnavailable("protocol", str(error)), asked_s)
        raise  # ends the connection: nothing else it says can be trusted
    for then, levels in pairs:
        _call(then, levels, asked_s)


def _failure(reply: object) -> StoreUnavailable | None:
    """Why the store did not decide; None where it did."""
    if isinstance(reply, StoreUnavailable):
        return reply
    if isinstance(reply, ReplyError):
        return StoreUnavailable(str(reply).partition(" ")[0].lower(), str(reply))
    return None


def _call(then: OnLevels, answer: Levels | StoreUnavailable, asked_s: float) -> None:
    try:
        then(answer, asked_s)
    except Exception:  # the boundary of one request: the others of its batch must get their answers
        logger.exception("a request failed after its decision")
