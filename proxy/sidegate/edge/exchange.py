"""An admitted request on its way: to the application, and its answer back to the client.

    CONNECTING ── a connection ──► SENT ── the answer's head ──► ANSWERING ── its last byte ──► ENDED
         └── no connection: the request fails                └── a whole answer ─────────────────┘

The common request (no body, or one that has arrived whole; an answer that has arrived whole) is one write to the
application and one to the client. A body that is still arriving, in either direction, is passed on as it comes, and
each side is read no faster than the other takes it.

The client's leaving ends the exchange and closes the connection to the application, which may still be working on the
request (edge/abandoned has the places that it takes meanwhile). A request is sent a second time only where a reused
connection turned out to be closed before any byte of an answer, the method is idempotent (RFC 9110 §9.2.2) and the
whole body is at hand.
"""

import asyncio
from enum import Enum

from sidegate.edge.answer_cost import AnswerCost
from sidegate.edge.download import framing_of, send_piece
from sidegate.edge.exchange_ports import Admitted, ClientSide, ForwardedRequest
from sidegate.edge.failures import Failure
from sidegate.edge.heads import NO_BODY, PLAIN_TRAITS, ResponseHead
from sidegate.edge.max_forwards import hops_left, take_hop
from sidegate.edge.rewrite import request_head, response_head
from sidegate.edge.upload import UploadState
from sidegate.edge.upstream import UpstreamConnection
from sidegate.edge.upstream_errors import BrokenReply, UpstreamError

# RFC 9110 §9.2.2: repeating these has the same effect as doing them once.
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


class ExchangeState(Enum):
    """See the module's text."""

    CONNECTING = "waits for a connection"
    SENT = "waits for the answer"
    ANSWERING = "passes the answer's body on"
    ENDED = "ended"


_CONNECTING, _SENT, _ANSWERING, _ENDED = ExchangeState


class Exchange:
    """See the module's text. Defaults are class attributes, so that creating an exchange does not assign them."""

    connection: UpstreamConnection | None = None
    _state = _CONNECTING
    _status = 0
    _keep = True
    _retried = False
    _chunked = False
    _alarm: asyncio.TimerHandle | None = None
    _cost: AnswerCost | None = None

    def __init__(self, client: ClientSide, request: ForwardedRequest, verdict: Admitted) -> None:
        self._client = client
        self._request = request
        self._verdict = verdict

    # To the application

    def forward(self) -> None:
        """Send the request."""
        client, request = self._client, self._request
        head, live, upload = request.head, request.live, request.upload
        if live.upstream.total_timeout_s is not None:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(live.upstream.total_timeout_s, self.give_up, Failure.TOTAL_TIMEOUT)
        if upload is not None and upload.too_large:
            self._fail(Failure.BODY_TOO_LARGE)
            return
        if upload is not None and not upload.ended:
            if head.traits.expects and head.traits.minor:
                client.socket.write(CONTINUE)
            if upload.may_fit(head.framing):
                upload.collect(self)
                return
        self.body_collected()

    def body_collected(self) -> None:
        """Get a connection; see upload.UploadOwner."""
        self._data = _request_bytes(self._client, self._request)
        try:
            connection = self._client.runtime.pool.acquire(self)
        except UpstreamError as error:
            self._fail(error.failure)
            return
        if connection is not None:
            self.on_connection(connection)

    def _reconnect(self) -> None:
        """Wait for a connection that has not been idle."""
        try:
            _ = self._client.runtime.pool.acquire(self, fresh=True)
        except UpstreamError as error:
            self._fail(error.failure)

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Send the request on this connection (see pool.ConnectionWaiter)."""
        self.connection = connection
        self._state = _SENT
        request = self._request
        settings, upload = request.live.upstream, request.upload
        streamed = upload is not None and not upload.sent
        timeout_s = 0.0 if streamed else settings.response_timeout_s
        connection.send(self, self._data, request.head.method == "HEAD", timeout_s, settings.between_bytes_timeout_s)
        if streamed and upload is not None and self._state is _SENT:
            connection.upload = upload
            upload.start(self, connection, settings.response_timeout_s)

    # To the client

    def on_answer(self, head: ResponseHead, content: bytes, ended: bool) -> None:
        """See upstream.ResponseHandler."""
        request, client = self._request, self._client
        self._status = head.status
        if ended and head.framing is not NO_BODY:
            line = b"Content-Length: %d\r\n" % len(content)
        else:
            line, self._chunked, closes = framing_of(head, request.head.traits.minor)
            self._keep = not closes
        verdict = self._verdict
        if verdict.admission is not None:
            self._cost = cost = AnswerCost(verdict.admission, verdict.applied)
            cost.on_head(head)
        fields = request.live.rate_limit_fields.of(verdict) if verdict.applied else b""
        lines = response_head(head, line + fields + request.last_lines(self._keep), request.live.via)
        if ended:
            client.socket.write(lines + content)
            self._read_cost(content)
            self._finish()
        else:
            self._state = _ANSWERING
            client.socket.write(lines)
            self.on_answer_data(content, ended=False)

    def on_answer_data(self, content: bytes, *, ended: bool) -> None:
        """See upstream.ResponseHandler."""
        socket = self._client.socket
        if socket.writing_paused:
            socket.expect_more(len(content))
        send_piece(socket, content, chunked=self._chunked, ended=ended)
        self._read_cost(content)
        if ended:
            self._finish()
        elif socket.writing_paused and self.connection is not None:
            budget, most_bytes = self._client.runtime.buffers, self._request.live.upstream.response_buffer
            if not socket.buffers(budget, most_bytes):
                self.connection.pause_reading()

    def _read_cost(self, content: bytes) -> None:
        if self._cost is not None and self._cost.reads_body:
            self._cost.received(content)

    def on_interim(self, head: ResponseHead) -> None:
        """See upstream.ResponseHandler."""
        traits = self._request.head.traits
        if head.status == 101:
            if traits.websocket and head.websocket:
                self._switch(head)
            else:
                self.give_up(Failure.UPSTREAM_BROKEN)  # without an upgrade request, or to another protocol
        elif head.status != 100 and traits.minor:
            self._client.socket.write(response_head(head, b"", self._request.live.via))

    def _switch(self, head: ResponseHead) -> None:
        connection, self.connection = self.connection, None
        assert connection is not None  # noqa: S101  (its answer is being passed on)
        live, verdict = self._request.live, self._verdict
        if verdict.admission is not None:
            AnswerCost(verdict.admission, verdict.applied).on_head(head)
        fields = live.rate_limit_fields.of(verdict) if verdict.applied else b""
        ours = fields + self._request.id_line + UPGRADE
        self._client.open_tunnel(response_head(head, ours, live.via), connection, verdict.admission)
        self._end(head.status)

    def _finish(self) -> None:
        if self._cost is not None:
            self._cost.ended()
        connection, self.connection = self.connection, None
        upload, grant = self._request.upload, None
        if connection is not None:
            if upload is not None and not upload.sent:
                # An early answer: the rest of the request is not needed.
                upload.stop()
                connection.abort()
            else:
                grant = self._client.runtime.pool.release(connection)
        self._state = _ENDED
        if self._alarm is not None:
            self._alarm.cancel()
        self._request.end(self._status, "", self._keep)
        if grant is not None:
            grant.deliver()

    # Failing and ending

    def on_upstream_error(self, error: UpstreamError) -> None:
        """Try once more where that is safe, else answer for the application; see upstream.ResponseHandler."""
        connection, self.connection = self.connection, None
        upload = self._request.upload
        if not self._retried and isinstance(error, BrokenReply) and _may_repeat(self._request, connection):
            self._retried = True
            self._state = _CONNECTING
            self._reconnect()
            return
        if connection is not None:
            self._let_go(connection)
        if upload is not None:
            upload.stop()
        self._fail(error.failure)

    def give_up(self, failure: Failure) -> None:
        """Stop, and answer with the failure."""
        self.stop()
        self._fail(failure)

    def stop(self) -> None:
        """Stop sending and receiving."""
        if self._state is _CONNECTING:
            self._client.runtime.pool.cancel(self)
        connection, self.connection = self.connection, None
        if connection is not None:
            self._let_go(connection)
        if self._request.upload is not None:
            self._request.upload.stop()
        if self._alarm is not None:
            self._alarm.cancel()

    def _let_go(self, connection: UpstreamConnection) -> None:
        upload, timeout_s = self._request.upload, self._request.live.upstream.abandoned_timeout_s
        self._client.runtime.abandoned.let_go(
            connection, self._verdict.admission, whole=upload is None or upload.sent, timeout_s=timeout_s
        )

    def _fail(self, failure: Failure) -> None:
        if self._state is _ENDED:
            return
        if self._status:
            self._client.break_off()
            self._end(self._status, failure.reason)
            return
        self._state = _ENDED
        if self._alarm is not None:
            self._alarm.cancel()
        self._request.fail(failure)

    def _end(self, status: int, error: str = "") -> None:
        self._state = _ENDED
        if self._alarm is not None:
            self._alarm.cancel()
        self._request.end(status, error, self._keep)


def _may_repeat(request: ForwardedRequest, connection: UpstreamConnection | None) -> bool:
    """Whether a request that failed on this connection may be sent again."""
    if connection is None or not connection.reused or connection.reader.begun:
        return False
    upload = request.upload
    return request.head.method in IDEMPOTENT and (upload is None or upload.state is UploadState.SENT_WHOLE)


def _request_bytes(client: ClientSide, request: ForwardedRequest) -> bytes:
    """The head for the application, and the body if it has arrived completely."""
    head, framing, body = request.head, request.id_line, b""
    if request.upload is not None:
        line, body = request.upload.framing(head.framing)
        framing += line
    elif head.traits is not PLAIN_TRAITS:
        empty = b"" if head.framing is NO_BODY else b"Content-Length: 0\r\n"
        framing += UPGRADE if head.traits.websocket else empty
    if "max-forwards" in head.special and (hops := hops_left(head)) is not None:
        take_hop(head, hops)
    live, peer, runtime = request.live, client.socket.peer, client.runtime
    trusted = live.policies.identity.trusts(peer)
    written = request_head(
        head, runtime.authority, peer.encode(), framing, trusted=trusted, via=live.via, scheme=runtime.scheme
    )
    return written + body
