"""Requests that the application still works on though nobody waits for their answers: their clients have left, or they
have timed out.

Without `in_flight` the connection to the application is closed at once. Under `in_flight` the request keeps its place
until the application has ended it, so that the limit holds there:

    the whole request was sent, no answer has begun   wait for the answer, at most `upstream.abandoned_timeout`: many
                                                      applications work on after a closed connection, unseen
    else                                              send the end of the connection, and wait at most TOLD_S for the
                                                      application to close it or to end its answer

What still comes is thrown away. After the wait the connection is closed and the place is free.
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

# How long an application may take to notice that its connection ends.
TOLD_S = 1.0
# Of an answer that nobody reads, so much is read; then the application has to wait.
MOST_DISCARDED_BYTES = 1024 * 1024


class AbandonedRequests:
    """All of one process."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._requests: set[AbandonedRequest] = set()
        self._closed = False

    def let_go(
        self, connection: UpstreamConnection, admission: Admission | None, *, whole: bool, timeout_s: float
    ) -> None:
        """End the request on the connection, whose answer nobody waits for; `whole`: all of the request was sent.

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
        request.begin(timeout_s if silent else min(TOLD_S, timeout_s), tell=not silent)

    def ended(self, request: "AbandonedRequest", reusable: UpstreamConnection | None) -> None:
        """Forget a request; the connection, if any, can be used for the next one."""
        self._requests.discard(request)
        if reusable is not None and (grant := self._pool.release(reusable)) is not None:
            grant.deliver()

    def close(self) -> None:
        """End all of them now, and those that follow at once: the sidecar stops."""
        self._closed = True
        for request in list(self._requests):
            request.give_up(Failure.INTERNAL)

    def readings(self) -> Iterator[Reading]:
        """The gauge of such requests."""
        text = "Requests under in_flight that the application works on though nobody waits for them."
        yield Reading("requests_abandoned", text, lambda: len(self._requests))


class AbandonedRequest:
    """One of them. Fulfils upstream.ResponseHandler."""

    __slots__ = ("_alarm", "_connection", "_discarded_bytes", "_loop", "_owner", "_places", "_told", "_until_s")

    def __init__(self, owner: AbandonedRequests, connection: UpstreamConnection, places: Admission) -> None:
        self._owner = owner
        self._connection = connection
        self._places = places
        self._told = False
        self._discarded_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._until_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    def begin(self, timeout_s: float, *, tell: bool) -> None:
        """Receive the rest of the answer for at most so long."""
        self._until_s = self._loop.time() + timeout_s
        self._alarm = self._loop.call_at(self._until_s, self._end)
        self._connection.hand_to(self)
        if tell:
            self._tell()

    def on_interim(self, head: ResponseHead) -> None:
        """See upstream.ResponseHandler."""
        if head.status == 101:
            self.give_up(Failure.UPSTREAM_BROKEN)

    def on_answer(self, _: ResponseHead, content: bytes, ended: bool) -> None:
        """See upstream.ResponseHandler."""
        if not ended and self._alarm is not None:
            self._alarm.cancel()
            self._alarm = self._loop.call_at(min(self._until_s, self._loop.time() + TOLD_S), self._end)
            self._tell()
        self.on_answer_data(content, ended=ended)

    def on_answer_data(self, content: bytes, *, ended: bool) -> None:
        """See upstream.ResponseHandler."""
        self._discarded_bytes += len(content)
        if ended:
            self._end(keep=not self._told)
        elif self._discarded_bytes > MOST_DISCARDED_BYTES:
            self._connection.pause_reading()

    def on_upstream_error(self, _: UpstreamError) -> None:
        """See upstream.ResponseHandler."""
        self._end(keep=False)

    def give_up(self, _: Failure) -> None:
        """End it now, whatever the application still does; see upstream.ResponseHandler."""
        self._end(keep=False)

    def _tell(self) -> None:
        transport, self._told = self._connection.transport, True
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
