"""Requests whose client has left or that have timed out, while the application still works on them.

Without `in_flight` the connection to the application is closed at once. Under `in_flight` the request keeps its place
until the application has ended it, so that the limit holds there:

    the whole request was sent, no answer has begun   wait for the answer, at most `upstream.abandoned_timeout`: many
                                                      applications work on after a closed connection, unseen
    else                                              send the end of the connection, and wait at most CLOSING_S for the
                                                      application to close it or to end its answer

Further bytes of the answer are discarded. After the wait the connection is closed and the place is free.
"""

import asyncio
from collections.abc import Iterator

from sidegate.decision.reading import Reading
from sidegate.decision.settling import Admission
from sidegate.edge.failures import Failure
from sidegate.edge.heads import ResponseHead
from sidegate.edge.pool import Pool
from sidegate.edge.upstream import UpstreamConnection, UpstreamState
from sidegate.edge.upstream_errors import UpstreamError

# How long an application may take to close its side after the sidecar has ended its own.
CLOSING_S = 1.0
# Bounds how much of a discarded answer is read; then the application has to wait.
MOST_DISCARDED_BYTES = 1024 * 1024


class AbandonedRequests:
    """The abandoned requests of one process."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._requests: set[AbandonedRequest] = set()
        self._closed = False

    def let_go(
        self, connection: UpstreamConnection, admission: Admission | None, *, whole: bool, timeout_s: float
    ) -> None:
        """Abandon the request on the connection; `whole`: all of the request was sent.

        `timeout_s` is `upstream.abandoned_timeout`. The places of the admission move to the abandoned request.
        """
        works = not self._closed and connection.state in (UpstreamState.WAITING, UpstreamState.ANSWERING)
        places = admission.move_places() if admission is not None and timeout_s and works else None
        if places is None:
            connection.abort()
            return
        request = AbandonedRequest(self, connection, places)
        self._requests.add(request)
        silent = whole and connection.state is UpstreamState.WAITING
        request.begin(timeout_s if silent else min(CLOSING_S, timeout_s), end_output=not silent)

    def ended(self, request: "AbandonedRequest", reusable: UpstreamConnection | None) -> None:
        """Forget a request; the connection, if any, can be used for the next one."""
        self._requests.discard(request)
        if reusable is not None and (grant := self._pool.release(reusable)) is not None:
            grant.deliver()

    def close(self) -> None:
        """End all abandoned requests now, and later ones at once: the sidecar stops."""
        self._closed = True
        for request in list(self._requests):
            request.give_up(Failure.INTERNAL)

    def readings(self) -> Iterator[Reading]:
        """The gauge of abandoned requests."""
        text = "Requests under in_flight without a client, which the application still works on."
        yield Reading("requests_abandoned", text, lambda: len(self._requests))


class AbandonedRequest:
    """One abandoned request. Implements upstream.ResponseHandler."""

    __slots__ = ("_alarm", "_connection", "_discarded_bytes", "_loop", "_output_ended", "_owner", "_places", "_until_s")

    def __init__(self, owner: AbandonedRequests, connection: UpstreamConnection, places: Admission) -> None:
        self._owner = owner
        self._connection = connection
        self._places = places
        self._output_ended = False
        self._discarded_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._until_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    def begin(self, timeout_s: float, *, end_output: bool) -> None:
        """Receive the rest of the answer for at most `timeout_s`."""
        self._until_s = self._loop.time() + timeout_s
        self._alarm = self._loop.call_at(self._until_s, self._end)
        self._connection.hand_to(self)
        if end_output:
            self._end_output()

    def on_interim(self, head: ResponseHead) -> None:
        """See upstream.ResponseHandler."""
        if head.status == 101:
            self.give_up(Failure.UPSTREAM_BROKEN)

    def on_answer(self, _: ResponseHead, content: bytes, ended: bool) -> None:
        """See upstream.ResponseHandler."""
        if not ended and self._alarm is not None:
            self._alarm.cancel()
            self._alarm = self._loop.call_at(min(self._until_s, self._loop.time() + CLOSING_S), self._end)
            self._end_output()
        self.on_answer_data(content, ended=ended)

    def on_answer_data(self, content: bytes, *, ended: bool) -> None:
        """See upstream.ResponseHandler."""
        self._discarded_bytes += len(content)
        if ended:
            self._end(keep=not self._output_ended)
        elif self._discarded_bytes > MOST_DISCARDED_BYTES:
            self._connection.pause_reading()

    def on_upstream_error(self, _: UpstreamError) -> None:
        """See upstream.ResponseHandler."""
        self._end(keep=False)

    def give_up(self, _: Failure) -> None:
        """End the request now; see upstream.ResponseHandler."""
        self._end(keep=False)

    def _end_output(self) -> None:
        transport, self._output_ended = self._connection.transport, True
        if not transport.is_closing() and transport.can_write_eof():
            transport.write_eof()

    def _end(self, *, keep: bool = False) -> None:
        if self._alarm is None:
            return
        self._alarm.cancel()
        self._alarm = None
        if not keep:
            self._connection.abort()
        self._places.leave()
        self._owner.ended(self, self._connection if keep else None)
