"""One client's connection: the socket, its deadlines, and the requests on it, one after the other.

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
import socket
import struct
from enum import Enum
from typing import Any

from sidegate.decision.record import Record
from sidegate.decision.request import RequestFacts
from sidegate.edge.deadline import Deadline
from sidegate.edge.failures import BadMessage, BadRequestHead, Failure
from sidegate.edge.heads import RequestHead, no_fields
from sidegate.edge.pending_request import CLOSE, PendingRequest
from sidegate.edge.replies import failure_reply
from sidegate.edge.request_reader import RequestReader, RequestState
from sidegate.edge.runtime import Listener, Runtime
from sidegate.edge.tunnel import Tunnel
from sidegate.edge.upstream import UpstreamConnection

# A lingering connection ends after this much silence; `listen.linger_timeout` bounds it as a whole.
LINGER_SILENCE_S = 5.0
# How long an idle connection stays open for one more request while the sidecar drains, and a lingering one.
IDLE_GRACE_S = 0.5
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing resets

logger = logging.getLogger(__name__)


class ClientState(Enum):
    """See the module's text."""

    IDLE = "between two requests"
    HEAD = "a head has begun"
    REQUEST = "a request is under way"
    LINGERING = "what still comes is thrown away"
    TUNNEL = "a WebSocket"
    CLOSED = "closing or closed"


_IDLE, _HEAD, _REQUEST = ClientState.IDLE, ClientState.HEAD, ClientState.REQUEST
_LINGERING, _TUNNEL, _CLOSED = ClientState.LINGERING, ClientState.TUNNEL, ClientState.CLOSED
_BODY, _ENDED = RequestState.BODY, RequestState.ENDED


class ClientConnection(asyncio.Protocol):
    """See the module's text. `closing`: the connection ends after the present answer."""

    transport: asyncio.Transport

    def __init__(self, runtime: Runtime, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        self.runtime = runtime
        self._listener = listener
        self._deadline = Deadline(loop, self._timed_out)
        self._reader = RequestReader(runtime.started.max_header_bytes)
        self._request: PendingRequest | None = None
        self._linger_until_s = 0.0
        self.state = _IDLE
        self.tunnel: Tunnel | None = None
        self.writing_paused = False
        self.closing = False
        self.peer = ""

    # The connection's life

    def connection_made(self, transport: Any) -> None:  # uvloop's is no subclass of asyncio's
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else "unix"
        if self._listener.admit(self):
            self._deadline.set(self.runtime.started.header_timeout_s)
        else:
            # One write, and nothing is read: a flood must not cost more.
            self.closing = True
            self._answer_nobody(Failure.TOO_MANY_CONNECTIONS)
            self._close()

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002  (both ways lead here)
        self.state = _CLOSED
        self._deadline.close()
        self._listener.forget(self)
        if self._request is not None:
            self._request.client_left()

    def drain_and_close(self) -> None:
        """Close after the request under way, or the next one if it comes soon.

        A request that is already on its way on an idle connection would be lost if that were closed at once.
        """
        self.closing = True
        if self.tunnel is not None:
            self.tunnel.go_away()
        elif self.state is not _REQUEST:
            self._linger_until_s = 0.0
            self._deadline.set(IDLE_GRACE_S)

    def break_off(self) -> None:
        """End the connection at once, so that no answer can look complete."""
        self.closing = True
        if self._request is not None:
            # A plain end is the proper end of an answer without length, as HTTP/1.0 clients get them: reset.
            peer = self.transport.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    # Bytes in

    def data_received(self, data: bytes) -> None:
        state = self.state
        try:
            if state is _IDLE or state is _HEAD:
                if self.writing_paused:  # or a client that reads no answers could fill our memory with requests
                    self._hold(data)
                    return
                head = self._reader.read_head(data, self.runtime.live.request_names)
                if head is not None:
                    self._begin(head)
                elif state is _IDLE and self._reader.held:
                    self.state = _HEAD
                    self._deadline.set(self.runtime.started.header_timeout_s)
            elif state is _REQUEST:
                if self._reader.state is _BODY:
                    self._take_body(data)
                else:
                    self._hold(data)
            elif state is _LINGERING:
                self._wait_for_silence()
        except BadRequestHead as error:
            self._refuse(error.failure)
        except Exception:  # the boundary of one request: ours to answer for, and to learn of
            logger.exception("a request could not be handled")
            self._fail_internally()

    def _begin(self, head: RequestHead) -> None:
        self.state = _REQUEST
        self._deadline.clear()
        request = self._request = PendingRequest(self, head)
        if head.traits.failure is not None:
            request.fail(head.traits.failure)
            return
        if self._reader.state is _BODY:
            begun, self._reader.held = self._reader.held, b""
            if begun:
                self._take_body(begun)
        request.start()

    def _take_body(self, data: bytes) -> None:
        request = self._request
        if request is None or (request.upload is not None and request.upload.broken):
            return
        try:
            content = self._reader.read_body(data)
        except BadMessage:
            self.closing = True
            request.body_broken()
            return
        ended = self._reader.state is _ENDED
        request.body_received(content, ended=ended)
        if ended and self._reader.held:
            self.pause_reading()

    def _hold(self, data: bytes) -> None:
        self._reader.hold(data)
        self.pause_reading()

    def _advance(self) -> None:
        """Go on with what has come behind the last request."""
        if self.state in (_IDLE, _HEAD) and not self.writing_paused:
            self.resume_reading()
            self.data_received(b"")

    def pause_reading(self) -> None:
        """Receive no more for now."""
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Receive more."""
        if not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()

    # Bytes out

    @property
    def gone(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.transport.is_closing()

    @property
    def answering(self) -> bool:
        """Whether a request is under way."""
        return self.state is _REQUEST

    def write(self, data: bytes) -> None:
        """Send, unless the client has left."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def pause_writing(self) -> None:
        self.writing_paused = True
        if self._request is not None:
            self._deadline.set(self.runtime.started.write_timeout_s)
            if self._request.exchange is not None:
                self._request.exchange.client_paused()

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self._request is None:
            self._advance()
            return
        self._deadline.clear()
        if self._request.exchange is not None:
            self._request.exchange.client_resumed()

    def open_tunnel(self, head: bytes, connection: UpstreamConnection) -> None:
        """See exchange.ClientSide. What the client sent behind its request is the first to pass."""
        transport = self.transport
        if transport.is_closing():
            connection.abort()
            return
        transport.write(head)
        self.state = _TUNNEL
        self._deadline.close()
        early_answer = connection.reader.take_rest()
        idle_timeout_s = self.runtime.live.listen.websocket_idle_timeout_s
        self.tunnel = Tunnel(
            transport, self.connection_lost, connection.hand_over(), connection.connection_lost, idle_timeout_s
        )
        self.tunnel.start(self._reader.held, early_answer)
        if self.closing:
            self.tunnel.go_away()

    # The end of a request, and of the connection

    def request_ended(self, *, keep: bool) -> None:
        """See pending_request.Requester."""
        request, self._request = self._request, None
        if request is None or self.state is not _REQUEST or self.transport.is_closing():
            return
        reader = self._reader
        if not keep or reader.state is not _ENDED:
            self._linger()  # more may be on its way
        elif self.closing or not request.head.traits.persistent:
            self._close()
        else:
            self.state = _IDLE
            reader.next_message()
            self._deadline.set(self.runtime.started.idle_timeout_s)
            if reader.held or not self.transport.is_reading():
                asyncio.get_running_loop().call_soon(self._advance)

    def _refuse(self, failure: Failure) -> None:
        """Answer what is no request, and close."""
        self._answer_nobody(failure)
        self._linger()

    def _answer_nobody(self, failure: Failure) -> None:
        """Answer, and record, what is not known to be a request."""
        self.write(failure_reply(failure, head_only=False, connection=CLOSE))
        facts = RequestFacts("", "", no_fields, self.peer)
        self.runtime.observe(Record(facts, failure.status, None, failure.reason, 0.0, 0.0))

    def _fail_internally(self) -> None:
        if self._request is not None:
            self._request.fail_internally()
        elif self.state in (_IDLE, _HEAD):
            self._refuse(Failure.INTERNAL)

    def _close(self) -> None:
        """Close once everything is sent, if the client takes it in time."""
        self.state = _CLOSED
        self.transport.close()
        self._deadline.set(self.runtime.started.write_timeout_s)

    def _linger(self) -> None:
        if self.transport.is_closing():
            return
        draining = self.closing and self._listener.draining
        self.closing = True
        self.state = _LINGERING
        self._reader.held = b""
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.resume_reading()
        within_s = IDLE_GRACE_S if draining else self.runtime.started.linger_timeout_s
        self._linger_until_s = asyncio.get_running_loop().time() + within_s
        self._listener.lingers(self)
        self._wait_for_silence()

    def _wait_for_silence(self) -> None:
        left_s = self._linger_until_s - asyncio.get_running_loop().time()
        self._deadline.set(max(0.0, min(LINGER_SILENCE_S, left_s)))

    def _timed_out(self) -> None:
        if self.state is _HEAD:
            self._refuse(Failure.HEAD_TIMEOUT)
        elif self.state is _REQUEST and self._request is not None:
            self._request.client_stalled()
        else:
            self.break_off()
