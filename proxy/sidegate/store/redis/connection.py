"""One multiplexed connection to a Redis or Valkey node: many commands in flight, replies matched in order.

store/redis/handshake opens it and hands the transport over. This protocol then packs commands with hiredis, writes at
once, and passes each reply to the callback in its place. RESP2 only, which has no unsolicited messages. Whatever puts
the order in doubt (a broken reply, an unexpected reply) ends the connection.

A missed deadline does not: it fails its command alone. The place of the command is kept, and its late reply is
checked and discarded there, so it can never reach another callback. The connection ends when nothing at all has been
received for several timeouts, or when too many replies are late.

Deadlines cost a comparison per command: they all have the same length, so the oldest command's deadline is the next one
to pass, and one timer that re-arms itself watches that one, or the silence after late replies. A command that is sent
late in a turn of the event loop loses nothing of its time.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis

from sidegate.store.protocol import BadReply, CheckLate, Command, OnReply, StoreUnavailable

# Without any reply for so many timeouts after a missed deadline, and at least for so long, the connection is replaced:
# it may have been lost without notice. Shorter hiccups of the store cost their own calls only.
SILENT_TIMEOUTS = 4
SHORTEST_SILENCE_S = 0.25
# Bounds the late replies that are waited for, and with them the memory.
MOST_LATE = 16_384

ReplyError = hiredis.ReplyError

# hiredis returns False for an incomplete reply by default, and also for a RESP3 false.
_INCOMPLETE = object()

_pack = cast(Callable[[Command], bytes], hiredis.pack_command)  # its stub accepts tuples of one item only


class MultiplexedConnection(asyncio.Protocol):
    """The connection. Not reusable: once lost, every command fails at once."""

    def __init__(self, writer: asyncio.StreamWriter, timeout_s: float) -> None:
        self._writer = writer  # kept alive: a garbage-collected stream writer closes its transport
        self._transport = writer.transport
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._silence_s = max(SHORTEST_SILENCE_S, SILENT_TIMEOUTS * timeout_s)
        # Each command in flight, in order: deadline, callback, check of a late reply. `_late` has the checks of those
        # whose deadline has passed; their replies come first.
        self._waiting: deque[tuple[float, OnReply, CheckLate | None]] = deque()
        self._late: deque[CheckLate | None] = deque()
        self._received_s = 0.0  # when a reply, or the first of the late ones, was last received or due
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf  # when the timer fires
        self._lost: StoreUnavailable | None = None
        self._retiring = False
        self.answered = False  # whether a command was answered in time
        self.closed: asyncio.Future[StoreUnavailable] = self._loop.create_future()

    @classmethod
    def adopting(cls, link: Any, timeout_s: float) -> "MultiplexedConnection":
        """Take the transport from a connected redis-py connection, which then has nothing to close."""
        connection = cls(link._writer, timeout_s)
        link._reader = link._writer = None
        connection._transport.set_protocol(connection)
        return connection

    def ask(self, command: Command, on_reply: OnReply, check_late: CheckLate | None = None) -> None:
        """Send a command; `on_reply` is called once, within the timeout, possibly before this returns.

        `check_late` receives a reply that comes after the deadline, and raises BadReply if it is that of another call.
        """
        if self._lost is not None:
            on_reply(self._lost)
            return
        now = time.monotonic()
        due = now + self._timeout_s
        self._waiting.append((due, on_reply, check_late))
        self._transport.write(_pack(command))
        if due < self._timer_s:  # there is none, or it watches the silence after late replies
            self._set_timer(due, now)

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
                if self._late:
                    if (check := self._late.popleft()) is not None:
                        check(reply)
                    continue
                if not self._waiting:
                    raise BadReply("a reply without a command")
                self._waiting.popleft()[1](reply)
                self.answered = True
            if self._late:
                self._received_s = time.monotonic()
            if self._retiring and not self._waiting:
                self.close()
        except (hiredis.ProtocolError, BadReply) as error:
            self._fail(StoreUnavailable("protocol", str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(StoreUnavailable("connection_lost", str(exc or "the store closed the connection")))

    def _set_timer(self, due_s: float, now_s: float, grace: bool = True) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = due_s
        self._timer = self._loop.call_later(max(0.0, due_s - now_s), self._check_deadline, grace)

    def _check_deadline(self, grace: bool) -> None:
        self._timer, self._timer_s = None, math.inf
        now = time.monotonic()
        if grace and self._waiting and self._waiting[0][0] <= now:
            # The reply may be unread in the socket because this process was late, not the store: read once more first.
            self._set_timer(now + 0.001, now, grace=False)
            return
        if not grace:
            self._expire(now)
        if self._late and (now >= self._received_s + self._silence_s or len(self._late) > MOST_LATE):
            self._fail(self._timed_out())
            return
        if self._lost is not None:
            return
        due = self._waiting[0][0] if self._waiting else now + self._silence_s
        if self._late:
            due = min(due, self._received_s + self._silence_s)
        elif not self._waiting:
            return
        self._set_timer(due, now)  # also where a callback has sent another command

    def _expire(self, now: float) -> None:
        """Fail the commands whose deadline has passed; their replies are discarded."""
        failure = self._timed_out()
        while self._waiting and self._waiting[0][0] <= now:
            due, on_reply, check = self._waiting.popleft()
            if not self._late:
                self._received_s = due
            self._late.append(check)
            on_reply(failure)
        if self._retiring and not self._waiting:
            self.close()

    def _timed_out(self) -> StoreUnavailable:
        return StoreUnavailable("timeout", f"no reply within {self._timeout_s * 1000:g} ms")

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
        for _, on_reply, _ in waiting:
            on_reply(error)
