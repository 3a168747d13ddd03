"""The connections to the application: the last one used is the first one used again; how many there may be is bounded,
and so is how many requests wait for one, and how long.
"""

import asyncio
import contextlib
import errno
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from sidegate.config import UpstreamSettings
from sidegate.edge.deadline import Deadline
from sidegate.edge.upstream import (
    Busy,
    ConnectFailed,
    ConnectTimedOut,
    QueueFull,
    UpstreamConnection,
    UpstreamError,
)

# Runs a coroutine as a task that somebody owns.
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Wanting(Protocol):
    """A request that wants a connection."""

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Here is one; it must be released or aborted."""

    def on_upstream_error(self, error: UpstreamError) -> None:
        """There is none."""


class Pool:
    """See the module's text. `spawn` owns the tasks that connect."""

    def __init__(self, settings: UpstreamSettings, spawn: Spawn) -> None:
        self._settings = settings
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._idle: deque[UpstreamConnection] = deque()
        self._open = 0
        self._connecting = 0
        self._waiting: OrderedDict[Wanting, float] = OrderedDict()
        self._wanting_fresh: set[Wanting] = set()  # those of them that were failed by a connection that had been idle
        self._patience = Deadline(self._loop, self._give_up)
        self._closed = False

    @property
    def open(self) -> int:
        """Connections that exist or are being made."""
        return self._open

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""
        return len(self._waiting)

    def acquire(self, wanting: Wanting, *, fresh: bool = False, sure: bool = False) -> None:
        """Give `wanting` a connection, at once where an idle one is there.

        `fresh`: not one that has been idle. `sure`: an idle one only after a look whether the application has closed
        it.
        """
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.usable and (not sure or connection.looks_alive()):
                wanting.on_connection(connection)
                return
            connection.abort()
        if len(self._waiting) >= self._settings.max_waiting:
            # A longer queue would only turn an overload into time-outs.
            wanting.on_upstream_error(QueueFull("too many requests wait for a connection to the application"))
            return
        if not self._waiting:
            self._patience.set(self._settings.queue_timeout_s)
        self._waiting[wanting] = self._loop.time() + self._settings.queue_timeout_s
        if fresh:
            self._wanting_fresh.add(wanting)
        self._connect_for_the_waiting()

    def cancel(self, wanting: Wanting) -> None:
        """`wanting` has gone; the connection that may be on its way for it is somebody else's."""
        _ = self._waiting.pop(wanting, None)
        self._wanting_fresh.discard(wanting)

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection whose answer is complete; it is kept if it may be used again."""
        if self._closed or not connection.reusable:
            connection.abort()
            return
        connection.idle(self._settings.idle_timeout_s)
        if self._waiting:
            self._hand_out(connection)
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """End all idle connections; those in use end when they are released."""
        self._closed = True
        self._patience.close()
        while self._idle:
            self._idle.pop().abort()

    def _hand_out(self, connection: UpstreamConnection) -> None:
        if not self._waiting:
            self._idle.append(connection)
        elif not (connection.reused and self._wanting_fresh):
            self._next_waiting().on_connection(connection)
        else:
            self._hand_out_used(connection)

    def _hand_out_used(self, connection: UpstreamConnection) -> None:
        """The same, where some of those who wait do not want one that was used before."""
        taker = next((wanting for wanting in self._waiting if wanting not in self._wanting_fresh), None)
        if taker is not None:
            self.cancel(taker)
            taker.on_connection(connection)
        elif self._waiting and self._open >= self._settings.max_connections:
            connection.abort()  # makes room for a new one
        else:
            self._idle.append(connection)
            self._connect_for_the_waiting()

    def _next_waiting(self) -> Wanting:
        wanting, _ = self._waiting.popitem(last=False)
        self._wanting_fresh.discard(wanting)
        return wanting

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
            if error.errno in (errno.EMFILE, errno.ENFILE):  # our own want of file descriptors is not the application's
                self._connect_failed(Busy("no file descriptor is left for a connection to the application"))
                return
            self._connect_failed(ConnectFailed(f"{host}:{port}: {error.strerror or error}"))
        else:
            self._connecting -= 1
            if self._closed:
                connection.abort()
            else:
                if not self._waiting:  # whoever wanted it has left
                    connection.idle(self._settings.idle_timeout_s)
                self._hand_out(connection)

    def _new_connection(self) -> UpstreamConnection:
        return UpstreamConnection(self._loop, self._dead)

    def _connect_failed(self, error: UpstreamError) -> None:
        self._open -= 1
        self._connecting -= 1
        if self._waiting:
            self._next_waiting().on_upstream_error(error)
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
        for wanting, until in queued:
            if until <= now and wanting in self._waiting:
                self.cancel(wanting)
                wanting.on_upstream_error(Busy("no connection to the application became free in time"))
        later = [until for until in self._waiting.values() if until > now]
        if later:
            self._patience.set(min(later) - now)
