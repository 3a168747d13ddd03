"""One multiplexed connection to a Redis or Valkey node: many commands in flight, replies matched in order.

redis-py opens it (address, TLS, authentication, database) and hands the transport over. This protocol then packs
commands with hiredis, writes at once, and passes each reply to the callback in its place. RESP2 only, which has no
unsolicited messages. Whatever puts the order in doubt (a missed deadline, a broken reply, an unexpected reply)
ends the connection: a late reply can never reach another callback.

Deadlines cost nothing per command: they all have the same length, so the oldest command's deadline is the next one to
pass, and one timer that re-arms itself watches that one.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import NoPermissionError

from sidegate.store.protocol import Command, OnReply, StoreUnavailable
from sidegate.store.redis.batch import BadReply

# Opening may take a TLS handshake and several round trips; no request waits for it.
OPENING_TIMEOUT_S = 1.0

ReplyError = hiredis.ReplyError

# hiredis returns False for an incomplete reply by default, and also for a RESP3 false.
_INCOMPLETE = object()

_pack = cast(Callable[[Command], bytes], hiredis.pack_command)  # its stub accepts tuples of one item only


async def open_connection(pool: ConnectionPool, timeout_s: float, *, any_role: bool = False) -> "MultiplexedConnection":
    """Open a connection with redis-py and take over its transport. Raises StoreUnavailable.

    Raises it for a replica too, unless `any_role`.
    """
    link = cast(Any, pool).make_connection()  # untyped in redis-py
    try:
        async with asyncio.timeout(OPENING_TIMEOUT_S):
            await link.connect()
            # An older server accepts wrong credentials and refuses the next command: one PING shows it.
            await link.send_command("PING")
            await link.read_response()
            if not any_role:
                await _require_master(link)
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError  # redis-py's handshake swallows a cancellation
    except BaseException as error:  # redis-py raises more than its own exceptions while a server comes and goes
        await link.disconnect(nowait=True)
        if isinstance(error, StoreUnavailable):
            raise
        if isinstance(error, TimeoutError):
            raise StoreUnavailable("timeout", f"no connection within {OPENING_TIMEOUT_S:g} s") from error
        if isinstance(error, Exception):
            raise StoreUnavailable("connect", str(error)) from error
        raise
    return MultiplexedConnection.adopting(link, timeout_s)


async def _require_master(link: Any) -> None:
    """A replica would let in whom it can only refuse later. Who may not ask for the role is not held up."""
    await link.send_command("ROLE")
    with contextlib.suppress(NoPermissionError):
        role = await link.read_response()
        if isinstance(role, list) and role[0] != b"master":
            raise StoreUnavailable("readonly", "the server is a replica")


class MultiplexedConnection(asyncio.Protocol):
    """The connection. Not reusable: once lost, every command fails at once."""

    def __init__(self, writer: asyncio.StreamWriter, timeout_s: float) -> None:
        self._writer = writer  # kept alive: a garbage-collected stream writer closes its transport
        self._transport = writer.transport
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._waiting: deque[tuple[float, OnReply]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._lost: StoreUnavailable | None = None
        self._retiring = False
        self.closed: asyncio.Future[StoreUnavailable] = self._loop.create_future()

    @classmethod
    def adopting(cls, link: Any, timeout_s: float) -> "MultiplexedConnection":
        """Take the transport from a connected redis-py connection, which then has nothing to close."""
        connection = cls(link._writer, timeout_s)
        link._reader = link._writer = None
        connection._transport.set_protocol(connection)
        return connection

    def ask(self, command: Command, on_reply: OnReply) -> None:
        """Send a command; `on_reply` is called once, within the timeout, possibly before this returns."""
        if self._lost is not None:
            on_reply(self._lost)
            return
        now = self._loop.time()
        self._waiting.append((now + self._timeout_s, on_reply))
        self._transport.write(_pack(command))
        if self._timer is None:
            self._timer = self._loop.call_at(now + self._timeout_s, self._check_deadline)

    def close(self, failure: StoreUnavailable | None = None) -> None:
        """Close the connection; commands in flight fail."""
        self._fail(failure or StoreUnavailable("closed", "the connection was closed by this proxy"))

    def retire(self) -> None:
        """Close the connection once all commands in flight are answered; no further ones are sent."""
        self._retiring = True
        if not self._waiting:
            self.close()

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                if not self._waiting:
                    raise BadReply("a reply without a command")
                self._waiting.popleft()[1](reply)
            if self._retiring and not self._waiting:
                self.close()
        except (hiredis.ProtocolError, BadReply) as error:
            self._fail(StoreUnavailable("protocol", str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(StoreUnavailable("connection_lost", str(exc or "the store closed the connection")))

    def _check_deadline(self, grace: bool = True) -> None:
        self._timer = None
        if not self._waiting:
            return
        due = self._waiting[0][0]
        if due > self._loop.time():
            self._timer = self._loop.call_at(due, self._check_deadline)
        elif grace:
            # The reply may be unread in the socket because this process was late, not the store: read once more first.
            self._timer = self._loop.call_later(0.001, self._check_deadline, False)
        else:
            self._fail(StoreUnavailable("timeout", f"no reply within {self._timeout_s * 1000:g} ms"))

    def _fail(self, error: StoreUnavailable) -> None:
        if self._lost is not None:
            return
        self._lost = error
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        if not self.closed.done():
            self.closed.set_result(error)
        waiting, self._waiting = self._waiting, deque()
        for _, on_reply in waiting:
            on_reply(error)
