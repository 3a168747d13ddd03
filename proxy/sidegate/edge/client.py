"""One client's connection: its bytes, its deadlines, and the requests on it, one after the other.

    IDLE ── part of a head ──► HEAD ── the rest ──► REQUEST ── answered ──► IDLE
      └── a whole head ─────────────────────────────┘  │
    REQUEST ── answered, but more of the request may come ──► LINGERING ──► CLOSED
    REQUEST ── 101 ──► TUNNEL ──► CLOSED        any ── the end, a time-out ──► CLOSED

A request at a time: what arrives behind it (pipelining) is held unparsed and reading stops, so that no client can make
us hold more than one segment of its requests; answers are thereby in order. A client that breaks the protocol gets one
answer. After an answer that comes before the request has ended, the rest of the request is received and thrown away
(RFC 9112 §9.6): closing at once would reset the connection, and the client could lose the answer.
"""

import asyncio
import logging
from enum import Enum
from typing import Any

from sidegate.decision.settling import Admission
from sidegate.edge.client_socket import ClientSocket
from sidegate.edge.deadline import Deadline
from sidegate.edge.failures import BadMessage, BadRequestHead, Failure
from sidegate.edge.heads import RequestHead
from sidegate.edge.pending_request import PendingRequest, answer_no_request
from sidegate.edge.request_reader import RequestReader, RequestState
from sidegate.edge.runtime import Listener, Runtime
from sidegate.edge.tunnel import Tunnel
from sidegate.edge.upstream import UpstreamConnection

# A lingering connection ends after this much silence; `listen.linger_timeout` bounds it as a whole.
LINGER_SILENCE_S = 5.0
# How long an idle or lingering connection stays open while the sidecar drains: another request may be on its way.
IDLE_GRACE_S = 0.5

logger = logging.getLogger(__name__)


class ClientState(Enum):
    """See the module's text."""

    IDLE = "between two requests"
    HEAD = "a head has begun"
    REQUEST = "a request is under way"
    LINGERING = "what still comes is thrown away"
    TUNNEL = "a WebSocket"
    CLOSED = "closing or closed"


_IDLE, _HEAD, _REQUEST, _LINGERING, _TUNNEL, _CLOSED = ClientState
_BODY, _ENDED = RequestState.BODY, RequestState.ENDED


class ClientConnection(asyncio.Protocol):
    """See the module's text. `closing`: the connection ends after the present answer."""

    socket: ClientSocket
    tunnel: Tunnel | None = None
    _request: PendingRequest | None = None
    _admission: Admission | None  # of a WebSocket
    _linger_until_s = 0.0

    def __init__(self, runtime: Runtime, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        self.runtime = runtime
        self.state = _IDLE
        self.closing = False
        self._admission = None
        self._loop = loop
        self._listener = listener
        self._deadline = Deadline(loop, self._timed_out)
        self._reader = RequestReader(runtime.started.max_header_bytes)

    def connection_made(self, transport: Any) -> None:
        self.socket = ClientSocket(transport)
        if self._listener.admit(self):
            self._deadline.set(self.runtime.started.header_timeout_s)
        else:  # one write, and nothing is read: a flood must not cost more
            answer_no_request(self, Failure.TOO_MANY_CONNECTIONS)
            self._close()

    def connection_lost(self, _: BaseException | None) -> None:
        self.state = _CLOSED
        self._deadline.close()
        self.socket.release_buffer()
        self._listener.forget(self)
        if self._request is not None:
            self._request.client_left()
        if self._admission is not None:
            self._admission.leave()

    def drain_and_close(self) -> None:
        """Close after the request under way, or the next one if it comes soon."""
        self.closing = True
        if self.tunnel is not None:
            self.tunnel.go_away()
        elif self.state is _REQUEST and self._request is not None:
            self._request.drain(self.runtime.started.drain_timeout_s)
        elif self.state is not _REQUEST:
            self._linger_until_s = self._loop.time() + IDLE_GRACE_S
            self._deadline.set(IDLE_GRACE_S)

    def break_off(self) -> None:
        """End the connection at once, so that no answer can look complete."""
        self.closing = True
        if self._request is not None:
            self.socket.reset()
        else:
            self.socket.break_off()

    # Bytes in

    def data_received(self, data: bytes) -> None:
        state, reader = self.state, self._reader
        try:
            if state is _IDLE or state is _HEAD:
                if self.socket.writing_paused:  # a client that reads no answers could fill our memory with requests
                    self._hold(data)
                    return
                head = reader.read_head(data, self.runtime.live.request_names)
                if head is not None:
                    self._begin(head)
                elif state is _IDLE and reader.held:
                    self.state = _HEAD
                    self._deadline.set(self.runtime.started.header_timeout_s)
            elif state is _LINGERING:
                self._await_silence()
            elif state is _REQUEST and reader.state is _BODY:
                self._take_body(data)
            elif state is _REQUEST:
                self._hold(data)
        except BadRequestHead as error:
            self.refuse(error.failure)
        except Exception:  # the boundary of one request: answered 500 and logged
            logger.exception("a request could not be handled")
            self._fail_internally()

    def _begin(self, head: RequestHead) -> None:
        self.state = _REQUEST
        request = self._request = PendingRequest(self, head)
        if head.traits.failure is not None:
            request.fail(head.traits.failure)
            return
        if self._reader.state is _BODY:
            begun, self._reader.held = self._reader.held, b""
            self._take_body(begun)
        request.start()

    def _take_body(self, data: bytes) -> None:
        request = self._request
        upload = request.upload if request is not None else None
        if request is None or upload is None or upload.broken:
            return
        try:
            content = self._reader.read_body(data)
        except BadMessage:
            self.closing = True
            request.body_broken()
            return
        ended = self._reader.state is _ENDED
        upload.received(content, ended=ended)
        if ended and self._reader.held:
            self.socket.pause_reading()

    def _hold(self, data: bytes) -> None:
        self._reader.hold(data)
        self.socket.pause_reading()

    def _advance(self) -> None:
        """Continue with the bytes behind the last request."""
        if self.state in (_IDLE, _HEAD) and not self.socket.writing_paused:
            self.socket.resume_reading()
            self.data_received(b"")

    # Bytes out

    def pause_writing(self) -> None:
        """The exchange decides whether the application is read on meanwhile (`upstream.response_buffer`)."""
        self.socket.writing_paused = True
        self.socket.mark(self._loop.time())
        if self._request is not None:
            self._deadline.set(self.runtime.started.write_timeout_s)

    def resume_writing(self) -> None:
        self.socket.writing_paused = False
        self.socket.release_buffer()
        if self._request is None:
            if self.state is _IDLE:
                self._deadline.set(self.runtime.started.idle_timeout_s)
            self._advance()
        else:
            self._deadline.clear()
            if (connection := self._request.answering) is not None:
                connection.resume_reading()

    def open_tunnel(self, head: bytes, connection: UpstreamConnection, admission: Admission | None) -> None:
        """See exchange_ports.ClientSide. What the client sent behind its request is the first to pass."""
        transport, self._admission = self.socket.transport, admission
        if transport.is_closing():
            connection.abort()
            return
        transport.write(head)
        self.state = _TUNNEL
        self._deadline.close()
        early, idle_timeout_s = connection.reader.take_rest(), self.runtime.live.listen.websocket_idle_timeout_s
        application = connection.hand_over()
        self.tunnel = Tunnel(transport, self.connection_lost, application, connection.connection_lost, idle_timeout_s)
        self.tunnel.start(self._reader.held, early)
        if self.closing:
            self.tunnel.go_away()

    # The end of a request, and of the connection

    def request_ended(self, keep: bool) -> None:
        """See exchange_ports.ClientSide."""
        request, self._request = self._request, None
        if request is None or self.state is not _REQUEST or self.socket.transport.is_closing():
            return
        reader = self._reader
        if not keep or reader.state is not _ENDED:
            self._linger()  # more may be on its way
        elif self.closing or not request.head.traits.persistent:
            self._close()
        else:
            self.state = _IDLE
            reader.state = RequestState.HEAD
            self._deadline.set(self.runtime.started.idle_timeout_s)
            if reader.held or not self.socket.transport.is_reading():
                self._loop.call_soon(self._advance)

    def refuse(self, failure: Failure) -> None:
        """Answer bytes that are no valid request, and close."""
        answer_no_request(self, failure)
        self._linger()

    def _fail_internally(self) -> None:
        if self._request is not None:
            self._request.fail_internally()
        elif self.state in (_IDLE, _HEAD):
            self.refuse(Failure.INTERNAL)

    def _close(self) -> None:
        """Close once everything is sent, or after the write timeout."""
        self.state, self.closing = _CLOSED, True
        self.socket.close()
        self._deadline.set(self.runtime.started.write_timeout_s)

    def _linger(self) -> None:
        if self.socket.gone:
            return
        self.state, self.closing, self._reader.held = _LINGERING, True, b""
        self.socket.end_of_output()
        self.socket.resume_reading()
        within_s = IDLE_GRACE_S if self._listener.draining else self.runtime.started.linger_timeout_s
        self._linger_until_s = self._loop.time() + within_s
        self._listener.lingers(self)
        self._await_silence()

    def _await_silence(self) -> None:
        self._deadline.set(max(0.0, min(LINGER_SILENCE_S, self._linger_until_s - self._loop.time())))

    def _timed_out(self) -> None:
        if self.state is _HEAD:
            self.refuse(Failure.HEAD_TIMEOUT)
        elif left_s := self.socket.time_to_send_s(self._loop.time(), self.runtime.started.write_timeout_s):
            self._deadline.set(left_s)  # the client is slow, but takes its answer
        elif self.state is not _REQUEST:
            self.break_off()
        elif self.socket.writing_paused and self._request is not None:
            self._request.client_stalled()
