"""Requests that wait for a connection to the application, the oldest first, and how long each may wait.

the application accepts connections    `queue_timeout`, but for those in front, whose connections are being made
it refuses them, and `retry` is set    `retry`, for all: it may be restarting; `queue_timeout` begins anew behind it
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Protocol

from sidegate.config import UpstreamSettings
from sidegate.edge.deadline import Deadline
from sidegate.edge.upstream import UpstreamConnection
from sidegate.edge.upstream_errors import Busy, ConnectRefused, QueueFull, UpstreamError


class ConnectionWaiter(Protocol):
    """A request that waits for a connection."""

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Use the connection; it must be released or aborted."""

    def on_upstream_error(self, error: UpstreamError) -> None:
        """Handle the failure to get a connection."""


class ConnectionQueue:
    """See the module's text. `connecting` returns how many connections are being made."""

    def __init__(self, settings: UpstreamSettings, connecting: Callable[[], int]) -> None:
        self._settings = settings
        self._connecting = connecting
        self._loop = asyncio.get_running_loop()
        # Each with the time since when it waits, and whether it wants a connection that has not been idle.
        self._waiting: OrderedDict[ConnectionWaiter, tuple[float, bool]] = OrderedDict()
        self._deadline = Deadline(self._loop, self._give_up)
        self._refusal: ConnectRefused | None = None
        self._accepted_s = 0.0  # since when the application accepts connections again

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiter: ConnectionWaiter, *, fresh: bool) -> None:
        """Append a request. Raises QueueFull."""
        if len(self._waiting) >= self._settings.max_waiting:
            # A longer queue would only turn an overload into time-outs.
            raise QueueFull("too many requests wait for a connection to the application")
        self._waiting[waiter] = (self._loop.time(), fresh)
        if len(self._waiting) == 1:
            self._watch()

    def remove(self, waiter: ConnectionWaiter) -> None:
        """Remove a request."""
        _ = self._waiting.pop(waiter, None)
        if not self._waiting:
            self._refusal = None

    def take_first(self) -> ConnectionWaiter | None:
        """Remove and return the request that has waited longest."""
        waiter = next(iter(self._waiting), None)
        if waiter is not None:
            self.remove(waiter)
        return waiter

    def take_for(self, connection: UpstreamConnection) -> ConnectionWaiter | None:
        """Remove and return the first request that can use the connection."""
        for waiter, (_, fresh) in self._waiting.items():
            if not (fresh and connection.reused):
                self.remove(waiter)
                return waiter
        return None

    def refused(self, error: ConnectRefused) -> None:
        """Record that the application refused a connection, which is tried again."""
        self._refusal = error if self._waiting else None
        self._watch()

    def accepted(self) -> None:
        """Record that the application accepts connections."""
        if self._refusal is not None:
            self._refusal, self._accepted_s = None, self._loop.time()
            self._watch()

    def close(self) -> None:
        """Stop the deadline for good."""
        self._deadline.close()

    def _watch(self) -> None:
        """Set the deadline to that of the request which is the first to give up."""
        since_s = next((since for since, _ in islice(self._waiting.values(), self._exempt(), None)), None)
        if since_s is None and self._waiting:
            since_s = self._loop.time()  # all connect: look again, since some may have been served by then
        if since_s is not None:
            self._deadline.set(max(0.0, max(since_s, self._accepted_s) + self._longest_wait_s() - self._loop.time()))

    def _give_up(self) -> None:
        now = self._loop.time()
        until = now - self._longest_wait_s()
        late = list(islice(self._waiting.items(), self._exempt(), None))
        error = self._refusal or Busy("no connection to the application became free in time")
        for waiter, (since, _) in late:
            if max(since, self._accepted_s) <= until and waiter in self._waiting:
                self.remove(waiter)
                waiter.on_upstream_error(error)
        self._watch()

    def _longest_wait_s(self) -> float:
        return self._settings.queue_timeout_s if self._refusal is None else self._settings.retry_s

    def _exempt(self) -> int:
        """How many in front have no deadline here: their connections are being made, which has one of its own."""
        return self._connecting() if self._refusal is None else 0
