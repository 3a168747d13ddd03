"""The connections to the application: the last one used is the first one used again; how many there may be is bounded,
and so is how many requests wait for one, and how long.

`acquire` and `release` return what is to be done and call no request: the caller acts on it. Requests that wait are
called when the network or the clock decides: a connection was made, or failed, or did not come in time.
"""

import asyncio
import contextlib
import errno
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple, Protocol

from sidegate.config import UpstreamSettings
from sidegate.decision.reading import Reading
from sidegate.edge.deadline import Deadline
from sidegate.edge.field_names import FieldNames
from sidegate.edge.response_reader import ResponseReader
from sidegate.edge.upstream import UpstreamConnection
from sidegate.edge.upstream_errors import Busy, ConnectFailed, ConnectTimedOut, QueueFull, UpstreamError

# Runs a coroutine as a task that somebody owns.
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class ConnectionWaiter(Protocol):
    """A request that waits for a connection."""

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Here is one; it must be released or aborted."""

    def on_upstream_error(self, error: UpstreamError) -> None:
        """There is none."""


class Grant(NamedTuple):
    """A connection for a request that has waited."""

    waiter: ConnectionWaiter
    connection: UpstreamConnection

    def deliver(self) -> None:
        """Let the request go on."""
        self.waiter.on_connection(self.connection)


class Pool:
    """See the module's text. `spawn` owns the tasks that connect."""

    def __init__(self, settings: UpstreamSettings, names: FieldNames, spawn: Spawn) -> None:
        self._settings = settings
        self._names = names
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._idle: deque[UpstreamConnection] = deque()
        self._open = 0
        self._connecting = 0
        # Each with the time until which it waits, and whether it wants a connection that has not been idle.
        self._waiting: OrderedDict[ConnectionWaiter, tuple[float, bool]] = OrderedDict()
        self._deadline = Deadline(self._loop, self._give_up)
        self._closed = False

    @property
    def open(self) -> int:
        """Connections that exist or are being made."""
        return self._open

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""
        return len(self._waiting)

    def acquire(self, waiter: ConnectionWaiter, *, fresh: bool = False) -> UpstreamConnection | None:
        """An idle connection; None where there is none, and then `waiter` waits for one.

        An idle one that has something to read, or has ended, is closed instead of used. `fresh`: not one that has been
        idle. Raises QueueFull where too many wait already.
        """
        idle = self._idle
        while idle and not fresh:
            connection = idle.pop()
            if connection.is_alive():
                return connection
            connection.abort()
        if len(self._waiting) >= self._settings.max_waiting:
            # A longer queue would only turn an overload into time-outs.
            raise QueueFull("too many requests wait for a connection to the application")
        if not self._waiting:
            self._deadline.set(self._settings.queue_timeout_s)
        self._waiting[waiter] = (self._loop.time() + self._settings.queue_timeout_s, fresh)
        self._connect_for_the_waiting()
        return None

    def cancel(self, waiter: ConnectionWaiter) -> None:
        """`waiter` waits no longer; the connection that is being made for it goes to another."""
        _ = self._waiting.pop(waiter, None)

    def release(self, connection: UpstreamConnection) -> Grant | None:
        """Take back a connection whose answer has ended. Returns the request that gets it next, if one waits.

        It is closed where it may not be used again.
        """
        if self._closed or not connection.reusable:
            connection.abort()
            return None
        connection.idle(self._settings.idle_timeout_s)
        if not self._waiting:
            self._idle.append(connection)
            return None
        return self._grant(connection)

    def close(self) -> None:
        """End all idle connections; those in use end when they are released."""
        self._closed = True
        self._deadline.close()
        while self._idle:
            self._idle.pop().abort()

    def _grant(self, connection: UpstreamConnection) -> Grant | None:
        """Who gets the connection: the first that waits, and wants one like it."""
        for waiter, (_, fresh) in self._waiting.items():
            if not (fresh and connection.reused):
                self.cancel(waiter)
                return Grant(waiter, connection)
        if self._waiting and self._open >= self._settings.max_connections:
            connection.abort()  # makes room for a new one
        else:
            self._idle.append(connection)
            self._connect_for_the_waiting()
        return None

    def _connect_for_the_waiting(self) -> None:
        if self._closed:
            return
        if self._connecting < len(self._waiting) and self._open < self._settings.max_connections:
            self._open += 1
            self._connecting += 1
            _ = self._spawn(self._connect())

    async def _connect(self) -> None:
        host, port = self._settings.url
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                _, connection = await self._loop.create_connection(self._new_connection, host, port)
        except TimeoutError:
            self._connect_failed(ConnectTimedOut(f"{host}:{port} did not accept a connection in time"))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # our own lack of file descriptors is not the application's
                self._connect_failed(Busy("no file descriptor is left for a connection to the application"))
                return
            self._connect_failed(ConnectFailed(f"{host}:{port}: {error.strerror or error}"))
        else:
            self._connecting -= 1
            self._connected(connection)

    def _connected(self, connection: UpstreamConnection) -> None:
        if self._closed:
            connection.abort()
            return
        if self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            waiter.on_connection(connection)
        else:  # the request that wanted it has left
            connection.idle(self._settings.idle_timeout_s)
            self._idle.append(connection)

    def _new_connection(self) -> UpstreamConnection:
        return UpstreamConnection(ResponseReader(self._names), self._loop, self._dead)

    def _connect_failed(self, error: UpstreamError) -> None:
        self._open -= 1
        self._connecting -= 1
        if self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            waiter.on_upstream_error(error)
        self._connect_for_the_waiting()

    def _dead(self, connection: UpstreamConnection) -> None:
        self._open -= 1
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        self._connect_for_the_waiting()

    def _give_up(self) -> None:
        now = self._loop.time()
        # Those in front wait for the connections that are being made, which have a time-out of their own.
        queued = list(self._waiting.items())[self._connecting :]
        for waiter, (until, _) in queued:
            if until <= now and waiter in self._waiting:
                self.cancel(waiter)
                waiter.on_upstream_error(Busy("no connection to the application became free in time"))
        later = [until for until, _ in self._waiting.values() if until > now]
        if later:
            self._deadline.set(min(later) - now)


def pool_readings(pool: Pool) -> Iterator[Reading]:
    """Gauges of the application's side."""
    yield Reading("upstream_connections", "Open connections to the application.", lambda: pool.open)
    yield Reading("upstream_waiting", "Requests that wait for a connection to it.", lambda: pool.waiting)
