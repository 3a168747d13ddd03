"""An admitted request on its way: to the application, and its answer back to the client.

    CONNECTING ── a connection ──► SENT ── the answer's head ──► ANSWERING ── its last byte ──► ENDED
         └── no connection: the request fails                └── a whole answer ─────────────────┘

The common request (no body, or one that has arrived whole; an answer that has arrived whole) is one write to the
application and one to the client. A body that is still arriving, in either direction, is passed on as it comes, and
each side is read no faster than the other takes it.

The client's leaving ends the exchange and aborts the connection to the application, which may still be working on the
request. A request is sent a second time only where a reused connection turned out to be closed before any byte of an
answer, the method is idempotent (RFC 9110 §9.2.2) and the whole body is at hand.
"""

import asyncio
from enum import Enum
from typing import NewType, Protocol

from sidegate.decision.verdict import Answer, Verdict
from sidegate.edge.failures import KEEPS_CONNECTION, Failure
from sidegate.edge.heads import NO_BODY, RequestHead, ResponseHead
from sidegate.edge.max_forwards import hops_left, take_hop
from sidegate.edge.replies import failure_reply
from sidegate.edge.rewrite import request_head, response_head
from sidegate.edge.runtime import LiveRules, Runtime
from sidegate.edge.upload import LAST_CHUNK, Upload, chunk
from sidegate.edge.upstream import UpstreamConnection
from sidegate.edge.upstream_errors import BrokenReply, UpstreamError

# RFC 9110 §9.2.2: repeating these has the same effect as doing them once.
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})

CHUNKED_LINE = b"Transfer-Encoding: chunked\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"

# A verdict that lets its request pass. Only `admitted` makes one, so that no other request can be forwarded.
Admitted = NewType("Admitted", Verdict)

_PASS = Answer.PASS


def admitted(verdict: Verdict) -> Admitted | None:
    """The verdict as the permission to forward; None where it is none."""
    return Admitted(verdict) if verdict.answer is _PASS else None


class ClientSide(Protocol):
    """The client's connection, as an exchange sees it."""

    closing: bool  # whether the connection ends after the present answer, whatever the client wants

    @property
    def gone(self) -> bool:
        """Whether the client has left."""

    @property
    def writing_paused(self) -> bool:
        """Whether the client does not read what is sent to it at present."""

    def write(self, data: bytes) -> None:
        """Send, unless gone."""

    def pause_reading(self) -> None:
        """Read no more."""

    def resume_reading(self) -> None:
        """Read on."""

    def break_off(self) -> None:
        """The answer cannot be completed: end the connection so that it cannot look complete."""

    def open_tunnel(self, head: bytes, connection: UpstreamConnection) -> None:
        """Send an answer's head that switches protocols, and join the connections."""


class ForwardedRequest(Protocol):
    """The request of an exchange."""

    head: RequestHead
    live: LiveRules
    upload: Upload | None

    @property
    def peer(self) -> str:
        """The address of the client's connection."""

    @property
    def id_line(self) -> bytes:
        """The line of its id, or nothing."""

    def last_lines(self, *, keep: bool) -> bytes:
        """The last lines of its answer."""

    def end(self, status: int, error: str = "", *, keep: bool = True) -> None:
        """Record it; takes effect once."""


class ExchangeState(Enum):
    """See the module's text."""

    CONNECTING = "waits for a connection"
    SENT = "waits for the answer"
    ANSWERING = "passes the answer's body on"
    ENDED = "ended"


_CONNECTING, _SENT, _ANSWERING, _ENDED = ExchangeState


class Exchange:
    """See the module's text."""

    __slots__ = (
        *("_alarm", "_chunked", "_client", "_connection", "_data", "_keep", "_request", "_retried", "_runtime"),
        *("_state", "_status", "_verdict"),
    )

    def __init__(self, runtime: Runtime, client: ClientSide, request: ForwardedRequest, verdict: Admitted) -> None:
        self._runtime = runtime
        self._client = client
        self._request = request
        self._verdict = verdict
        self._state = _CONNECTING
        self._connection: UpstreamConnection | None = None
        self._data = b""
        self._status = 0
        self._keep = True
        self._retried = self._chunked = False
        self._alarm: asyncio.TimerHandle | None = None

    # To the application

    def forward(self) -> None:
        """Send the request."""
        request, head = self._request, self._request.head
        upload, total_s = request.upload, request.live.upstream.total_timeout_s
        if total_s is not None:
            self._alarm = asyncio.get_running_loop().call_later(total_s, self.give_up, Failure.TOTAL_TIMEOUT)
        if upload is None:
            framing = b"Content-Length: 0\r\n" if head.framing == 0 else b""
            self._data = self._head(UPGRADE if head.traits.websocket else framing)
        elif upload.too_large:
            self._fail(Failure.BODY_TOO_LARGE)
            return
        elif upload.ended:
            self._data = self._head(b"Content-Length: %d\r\n" % upload.body_bytes) + upload.take_whole()
        else:
            if head.traits.expects and head.traits.minor:
                self._client.write(CONTINUE)
            length = head.framing
            self._data = self._head(b"Content-Length: %d\r\n" % length if isinstance(length, int) else CHUNKED_LINE)
        self._acquire(fresh=False)

    def _head(self, framing: bytes) -> bytes:
        request, runtime = self._request, self._runtime
        head, peer = request.head, request.peer
        hops = hops_left(head)
        if hops is not None:
            take_hop(head, hops)
        trusted = request.live.policies.identity.trusts(peer)
        return request_head(head, runtime.authority, peer.encode(), request.id_line + framing, trusted=trusted)

    def _acquire(self, *, fresh: bool) -> None:
        try:
            connection = self._runtime.pool.acquire(self, fresh=fresh)
        except UpstreamError as error:
            self._fail(error.failure)
            return
        if connection is not None:
            self.on_connection(connection)

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Send the request on this connection (see pool.ConnectionWaiter)."""
        self._connection = connection
        self._state = _SENT
        settings, upload = self._request.live.upstream, self._request.upload
        streaming = self._is_streaming(upload)
        connection.send(
            self,
            self._data,
            head_only=self._request.head.method == "HEAD",
            timeout_s=0.0 if streaming else settings.response_timeout_s,
            between_s=settings.between_bytes_timeout_s,
        )
        if streaming and upload is not None and self._state is _SENT:
            upload.start(connection)

    def _is_streaming(self, upload: Upload | None) -> bool:
        """Whether the body is sent apart from the head: it had not ended when the head was made."""
        return upload is not None and not upload.taken

    def upload_ended(self) -> None:
        """The whole body is on its way."""
        if self._connection is not None:
            self._connection.expect_answer(self._request.live.upstream.response_timeout_s)

    def on_write_paused(self) -> None:
        """See upstream.ResponseHandler."""
        if self._request.upload is not None:
            self._request.upload.pause()

    def on_write_resumed(self) -> None:
        """See upstream.ResponseHandler."""
        if self._request.upload is not None:
            self._request.upload.resume()

    # To the client

    def on_answer(self, head: ResponseHead, content: bytes, *, ended: bool) -> None:
        """Pass on the answer's head, and what has come of its body (see upstream.ResponseHandler)."""
        request, client = self._request, self._client
        self._status = head.status
        if ended and head.framing is not NO_BODY:
            framing = b"Content-Length: %d\r\n" % len(content)
        else:
            framing = self._framing(head)
        verdict = self._verdict
        fields = request.live.rate_limit_fields.of(verdict) if verdict.applied else b""
        lines = response_head(head, framing + fields + request.last_lines(keep=self._keep))
        if ended:
            client.write(lines + content)
            self._finish()
            return
        self._state = _ANSWERING
        client.write(lines + (chunk(content) if self._chunked and content else content))
        if client.writing_paused:
            self.client_paused()

    def _framing(self, head: ResponseHead) -> bytes:
        """The framing line of an answer that has no body, or whose body is still coming."""
        length = head.framing
        if length is NO_BODY:
            return b"Content-Length: %b\r\n" % head.announced if head.announced and head.status != 204 else b""
        if isinstance(length, int):
            return b"Content-Length: %d\r\n" % length
        if self._request.head.traits.minor == 0:
            self._keep = False  # the end of the connection is the only end such a body can have
            return b""
        self._chunked = True
        return CHUNKED_LINE

    def on_answer_data(self, content: bytes, *, ended: bool) -> None:
        """Pass on more of the answer's body (see upstream.ResponseHandler)."""
        data = chunk(content) if self._chunked and content else content
        if ended and self._chunked:
            data += LAST_CHUNK
        if data:
            self._client.write(data)
        if ended:
            self._finish()

    def on_interim(self, head: ResponseHead) -> None:
        """Pass on an interim answer, or switch protocols (see upstream.ResponseHandler)."""
        traits = self._request.head.traits
        if head.status == 101:
            if traits.websocket and head.websocket:
                self._switch(head)
            else:
                self.give_up(Failure.UPSTREAM_BROKEN)  # nobody asked to switch protocols, or not to this one
        elif head.status != 100 and traits.minor:
            self._client.write(response_head(head, b""))

    def _switch(self, head: ResponseHead) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None  # noqa: S101  (its answer is being passed on)
        request, verdict = self._request, self._verdict
        fields = request.live.rate_limit_fields.of(verdict) if verdict.applied else b""
        self._client.open_tunnel(response_head(head, fields + request.id_line + UPGRADE), connection)
        self._end(head.status)

    def client_paused(self) -> None:
        """The client does not take the answer."""
        if self._connection is not None:
            self._connection.pause_reading()

    def client_resumed(self) -> None:
        """The client takes more of the answer."""
        if self._connection is not None:
            self._connection.resume_reading()

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        upload, grant = self._request.upload, None
        if connection is not None:
            if upload is not None and not upload.sent:
                # An early answer: the rest of the request is of no interest to anybody.
                upload.stop()
                connection.abort()
            else:
                grant = self._runtime.pool.release(connection)
        self._end(self._status)
        if grant is not None:
            grant.deliver()

    # Failing and ending

    def on_upstream_error(self, error: UpstreamError) -> None:
        """Try once more where that is safe, else answer for the application (see upstream.ResponseHandler)."""
        connection, self._connection = self._connection, None
        stale = connection is not None and connection.reused and not connection.reader.begun
        upload = self._request.upload
        repeatable = self._request.head.method in IDEMPOTENT and (upload is None or upload.taken)
        if stale and repeatable and isinstance(error, BrokenReply) and not self._retried:
            self._retried = True
            self._state = _CONNECTING
            self._acquire(fresh=True)
            return
        if upload is not None:
            upload.stop()
        self._fail(error.failure)

    def fail_internally(self) -> None:
        """See upstream.ResponseHandler."""
        self.give_up(Failure.INTERNAL)

    def give_up(self, failure: Failure) -> None:
        """Stop, and answer with the failure."""
        self.stop()
        self._fail(failure)

    def stop(self) -> None:
        """Send and receive no more."""
        if self._state is _CONNECTING:
            self._runtime.pool.cancel(self)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        if self._request.upload is not None:
            self._request.upload.stop()
        if self._alarm is not None:
            self._alarm.cancel()

    def _fail(self, failure: Failure) -> None:
        if self._state is _ENDED:
            return
        if self._status:
            self._client.break_off()
            self._end(self._status, failure.reason)
            return
        self._keep = failure in KEEPS_CONNECTION
        connection = self._request.last_lines(keep=self._keep)
        head_only = self._request.head.method == "HEAD"
        self._client.write(failure_reply(failure, head_only=head_only, connection=connection))
        self._end(failure.status, failure.reason)

    def _end(self, status: int, error: str = "") -> None:
        self._state = _ENDED
        if self._alarm is not None:
            self._alarm.cancel()
        self._request.end(status, error, keep=self._keep)
