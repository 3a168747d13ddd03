"""The connections to the application: the last one used is the first one used again; how many there may be is bounded,
and so is how many requests wait for one, and how long.

`acquire` and `release` return what is to be done and call no request: the caller acts on it. Requests that wait are
called when the network or the clock decides: a connection was made, or failed, or did not come in time.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple

from sidegate.config import UpstreamSettings
from sidegate.decision.reading import Reading
from sidegate.edge.connection_queue import ConnectionQueue, ConnectionWaiter
from sidegate.edge.dial import dial
from sidegate.edge.field_names import FieldNames
from sidegate.edge.response_reader import ResponseReader
from sidegate.edge.upstream import UpstreamConnection
from sidegate.edge.upstream_errors import ConnectRefused, UpstreamError

# The pauses between two attempts while the application refuses connections: the first one, doubled up to the longest.
FIRST_RETRY_S = 0.01
LONGEST_RETRY_S = 0.1

# Runs a coroutine as a task that somebody owns.
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Grant(NamedTuple):
    """A connection for a request that has waited."""

    waiter: ConnectionWaiter
    connection: UpstreamConnection

    def deliver(self) -> None:
        """Let the request go on."""
        self.waiter.on_connection(self.connection)


class Pool:
    """See the module's text. `spawn` owns the tasks that connect. `retries` counts refused connections tried again."""

    def __init__(
        self, settings: UpstreamSettings, names: FieldNames, spawn: Spawn, tls: ssl.SSLContext | None = None
    ) -> None:
        self._settings = settings
        self._names = names
        self._spawn = spawn
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._idle: deque[UpstreamConnection] = deque()
        self._open = 0
        self._connecting = 0
        self._queue = ConnectionQueue(settings, lambda: self._connecting)
        self._closed = False
        self.retries = 0

    @property
    def open(self) -> int:
        """Connections that exist or are being made."""
        return self._open

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""
        return len(self._queue)

    def acquire(self, waiter: ConnectionWaiter, *, fresh: bool = False) -> UpstreamConnection | None:
        """An idle connection; None where there is none, and then `waiter` waits for one.

        An idle one that has something to read, or has ended, is closed instead. `fresh`: not one that has been idle.
        Raises QueueFull where too many wait already.
        """
        idle = self._idle
        while idle and not fresh:
            connection = idle.pop()
            if connection.is_alive():
                return connection
            connection.abort()
        self._queue.add(waiter, fresh=fresh)
        self._connect_for_the_waiting()
        return None

    def cancel(self, waiter: ConnectionWaiter) -> None:
        """`waiter` waits no longer; the connection that is being made for it goes to another."""
        self._queue.remove(waiter)

    def release(self, connection: UpstreamConnection) -> Grant | None:
        """Take back a connection whose answer has ended. Returns the request that gets it next, if one waits.

        It is closed where it may not be used again.
        """
        if self._closed or not connection.reusable or connection.tls is not self._tls:
            connection.abort()
            return None
        connection.idle(self._settings.idle_timeout_s)
        if not len(self._queue):
            self._idle.append(connection)
            return None
        return self._grant(connection)

    def use_tls(self, context: ssl.SSLContext) -> None:
        """Connect by this context from now on. Connections of the former one answer no further request."""
        self._tls = context
        self._end_idle()

    def close(self) -> None:
        """End all idle connections; those in use end when they are released."""
        self._closed = True
        self._queue.close()
        self._end_idle()

    def _end_idle(self) -> None:
        while self._idle:
            self._idle.pop().abort()

    def _grant(self, connection: UpstreamConnection) -> Grant | None:
        """Who gets the connection: the first that waits, and wants one like it."""
        waiter = self._queue.take_for(connection)
        if waiter is not None:
            return Grant(waiter, connection)
        if self._open >= self._settings.max_connections:
            connection.abort()  # makes room for a new one
        else:
            self._idle.append(connection)
            self._connect_for_the_waiting()
        return None

    def _connect_for_the_waiting(self) -> None:
        if self._closed:
            return
        if self._connecting < len(self._queue) and self._open < self._settings.max_connections:
            self._open += 1
            self._connecting += 1
            _ = self._spawn(self._connect())

    async def _connect(self) -> None:
        """Make a connection; where `retry` is set, try again while the application refuses and requests wait."""
        pause_s = FIRST_RETRY_S
        while True:
            try:
                connection = await dial(self._settings, self._new_connection, self._tls)
            except ConnectRefused as error:
                if not self._settings.retry_s:
                    self._connect_failed(error)
                    return
                self.retries += 1
                self._queue.refused(error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_RETRY_S)
                if self._closed or self._connecting > len(self._queue):
                    self._open -= 1
                    self._connecting -= 1
                    return
            except UpstreamError as error:
                self._queue.accepted()
                self._connect_failed(error)
                return
            else:
                self._connecting -= 1
                self._queue.accepted()
                self._connected(connection)
                return

    def _connected(self, connection: UpstreamConnection) -> None:
        if self._closed:
            connection.abort()
        elif (waiter := self._queue.take_first()) is not None:
            waiter.on_connection(connection)
        else:  # the request that wanted it has left
            connection.idle(self._settings.idle_timeout_s)
            self._idle.append(connection)

    def _new_connection(self) -> UpstreamConnection:
        return UpstreamConnection(ResponseReader(self._names), self._loop, self._dead)

    def _connect_failed(self, error: UpstreamError) -> None:
        self._open -= 1
        self._connecting -= 1
        if (waiter := self._queue.take_first()) is not None:
            waiter.on_upstream_error(error)
        self._connect_for_the_waiting()

    def _dead(self, connection: UpstreamConnection) -> None:
        self._open -= 1
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        self._connect_for_the_waiting()


def pool_readings(pool: Pool) -> Iterator[Reading]:
    """Gauges of the application's side."""
    yield Reading("upstream_connections", "Open connections to the application.", lambda: pool.open)
    yield Reading("upstream_waiting", "Requests that wait for a connection to it.", lambda: pool.waiting)
    text = "Connections that the application refused and that were tried again."
    yield Reading("upstream_connect_retries", text, lambda: pool.retries, is_counter=True)
