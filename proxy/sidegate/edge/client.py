"""The client's side: one connection, and the requests on it, one after the other.

A connection parses one request at a time. What arrives behind it (pipelining) waits unparsed, and reading stops, so
that no client can make us hold more than one segment of its requests; answers are thereby in order. A connection that
breaks the protocol gets one short answer and is closed; after an answer to a request whose body was not read to its
end, whatever still arrives is thrown away for a moment (so that the answer is not lost to a reset) and never parsed.

A segment that is, byte for byte, the one whole head without a body that the connection brought before is the same
request again: it is not parsed, checked and matched a second time (see edge/request).
"""

import asyncio
import logging
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from sidegate.decision.record import Record
from sidegate.decision.request import BadRequest, RequestFacts, path_part
from sidegate.decision.verdict import Answer, Verdict
from sidegate.edge.deadline import Deadline
from sidegate.edge.forward import CLIENT_LEFT, Exchange
from sidegate.edge.max_forwards import COUNTED_METHODS, hops_left, last_hop_answer
from sidegate.edge.replies import KEEPS_CONNECTION, Fault, fault_reply, page
from sidegate.edge.request import CLOSE, Request
from sidegate.edge.tunnel import Tunnel
from sidegate.edge.upstream import UpstreamConnection
from sidegate.edge.validity import fault_in, head_size
from sidegate.edge.wire import (
    CONTENT_LENGTH,
    EMPTY_BODY,
    NO_FIELDS,
    BaseProtocol,
    Body,
    HttpProcessingError,
    LineTooLong,
    RequestMessage,
    RequestParser,
    ends_clean,
    request_parser,
)

if TYPE_CHECKING:  # it makes these
    from sidegate.edge.server import Server

# After an answer that ends the connection, at most this much of what the client still sends is taken, for at most as
# long.
LINGER_BYTES = 64 * 1024
LINGER_S = 1.0
_LINGER_NOT = struct.pack("ii", 1, 0)
# How long an idle connection stays open for one more request while the sidecar drains.
IDLE_GRACE_S = 0.5
# The longest head that a connection keeps in mind to know it again.
LONGEST_KNOWN_HEAD_BYTES = 4096

_PASS, _REFUSE = Answer.PASS, Answer.REFUSE

# A page of the sidecar's own: its status and JSON content.
Page = Callable[[RequestFacts], Awaitable[tuple[int, Mapping[str, object]]]]

logger = logging.getLogger(__name__)


class ClientConnection(BaseProtocol):
    """One client's connection. See the module's text; it is the `Client` of its exchanges."""

    _parser: RequestParser

    def __init__(self, server: "Server", loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._server = server
        self._deadline = Deadline(loop, self._timed_out)
        self._exchange: Exchange | None = None
        self._page: asyncio.Task[None] | None = None
        self._request: Request | None = None  # the one under way
        self._known = b""  # a segment that is known to be the whole of `_known_request`; empty: none is
        self._known_request: Request | None = None
        self._busy = False
        self._advancing = False
        self._held = b""
        self._more = True  # whether the parser may hold bytes behind the present request
        self._begun = False  # whether the parser may hold the beginning of a head
        self._head_bytes = 0
        self._last_bytes = b""
        self._broken = False  # whether the present request's body broke its framing
        self._lingering: int | None = None
        self.tunnel: Tunnel | None = None
        self.peer = ""
        self.closing = False

    # The connection's life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        server = self._server
        server.connections.add(self)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else "unix"
        if len(server.connections) > server.settings.max_connections:
            # One write and the door is shut: a flood must not be served at leisure.
            self._busy = self.closing = True
            self._answer_nobody(Fault.TOO_MANY_CONNECTIONS)
            self._close()
        else:
            self._parser = request_parser(self, self._loop, server.settings.max_header_bytes)
            self._deadline.set(server.settings.header_timeout_s)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._deadline.close()
        self._server.forget(self)
        if self._page is not None:
            self._page.cancel()
        if self._exchange is not None:
            self._exchange.client_left()

    def drain_and_close(self) -> None:
        """Close after the request under way, or the next one if it comes soon.

        A request that is already on its way on an idle connection would be lost if that were closed at once.
        """
        self.closing = True
        if self.tunnel is not None:
            self.tunnel.go_away()
        elif not self._busy:
            self._deadline.set(IDLE_GRACE_S)

    def break_off(self) -> None:
        """End the connection at once, so that no answer can look complete."""
        self.closing = True
        if self.transport is not None:
            if self._exchange is not None:
                # A plain end is the proper end of an answer without length, as HTTP/1.0 clients get them: reset.
                peer = self.transport.get_extra_info("socket")
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self.transport.abort()

    # Bytes in

    def data_received(self, data: bytes) -> None:
        if data == self._known and data and not self._busy and not self._paused:
            self._begin_again()
        elif self._lingering is not None:
            self._lingering -= len(data)
            if self._lingering < 0:
                self.break_off()
        elif self._request is not None and not self._request.body.is_eof():
            self._feed_body(data)
        elif data:
            self._held += data
            self._more = True
            if self._busy or self._paused:  # or a client that reads no answers could fill our memory with requests
                self._pause_reading_for_buffer()
            else:
                self._advance()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._advance()

    def _advance(self) -> None:
        """Take requests out of what has arrived until one is under way, or there are no more."""
        if self._advancing:
            return  # a request ended at once; the loop below goes on
        self._advancing = True
        try:
            while self._more and not self._busy and not self._paused and self._next_request():
                pass
        finally:
            self._advancing = False
        if self._buffer_paused and not self._busy and not self._paused:
            self._resume_reading_for_buffer()

    def _next_request(self) -> bool:
        """Feed the parser; whether a request came out of it."""
        if self.gone or self._lingering is not None:
            return False
        data, self._held = self._held, b""
        try:
            messages, _, _ = self._parser.feed_data(data)
        except HttpProcessingError as error:
            self._refuse(Fault.HEAD_TOO_LARGE if isinstance(error, LineTooLong) else Fault.BAD_REQUEST)
            return False
        if not messages:
            self._more = False
            self._begun = True
            self._known = b""
            self._await_head(data)
            return False
        message, body = messages[0]
        self._busy = True
        self._head_bytes = 0
        self._last_bytes = data[-7:]
        # The common request is one segment that its head fills to the end: then there is nothing behind it. Where the
        # parser held the beginning of the head, the first blank line of the segment may be that of another one.
        self._more = self._begun or data.find(b"\r\n\r\n") != len(data) - 4
        self._begun = False
        if message.upgrade:
            self._stay_with_http(body)
        self._deadline.clear()
        knowable = not self._more and body is EMPTY_BODY and not message.upgrade
        self._known = data if knowable and len(data) <= LONGEST_KNOWN_HEAD_BYTES else b""
        self._begin(message, body, oversized=len(data) > self._server.settings.max_header_bytes)
        return True

    def _stay_with_http(self, body: Body) -> None:
        """Answer a request for another protocol as any other, and so what follows it.

        The parser is done after one; it hands back what came behind it only where it knows the other protocol.
        """
        try:
            _, handed_back, rest = self._parser.feed_data(b"")
        except HttpProcessingError:
            handed_back = False
        if handed_back and body.is_eof():
            self._parser = request_parser(self, self._loop, self._server.settings.max_header_bytes)
            self._held, self._more = rest, True
        else:
            self.closing = True

    def _await_head(self, data: bytes) -> None:
        if not data:
            return
        if not self._head_bytes:
            self._deadline.set(self._server.settings.header_timeout_s)
        self._head_bytes += len(data)
        if self._head_bytes > self._server.settings.max_header_bytes:
            self._refuse(Fault.HEAD_TOO_LARGE)

    def _feed_body(self, data: bytes) -> None:
        self._more = True
        self._last_bytes = (self._last_bytes + data)[-7:]
        try:
            self._parser.feed_data(data)
        except HttpProcessingError:
            self._broken = self.closing = True
            if self._exchange is not None:
                self._exchange.request_broken()

    # A request

    def _begin(self, message: RequestMessage, body: Body, *, oversized: bool) -> None:
        request = self._request = Request(message, body, self.peer)
        self._known_request = request if self._known else None
        fault = fault_in(message)
        if oversized and head_size(message) > self._server.settings.max_header_bytes:
            fault = Fault.HEAD_TOO_LARGE
        if body is not EMPTY_BODY and self._is_too_large(message):
            fault = Fault.BODY_TOO_LARGE
        if fault is not None:
            self._known = b""
            self._fail(request, fault)
            return
        make_page = self._server.pages.get(path_part(message.path))
        if make_page is not None and message.method in ("GET", "HEAD"):
            self._known = b""
            self._page = self._server.gateway.spawn(self._show(request, make_page))
            return
        self._decide(request)

    def _begin_again(self) -> None:
        """The request that is known came once more."""
        request = self._request = self._known_request
        assert request is not None  # noqa: S101  (it is what the segment is known for)
        self._busy = True
        self._deadline.clear()
        request.again()
        self._decide(request)

    def _decide(self, request: Request) -> None:
        gateway = self._server.gateway
        policies = gateway.policies
        try:
            if request.policies is not policies:
                request.applied, request.policies = policies.applying(request.facts), policies
            gateway.decide(request.applied, self._on_verdict)
        except BadRequest:
            self._known = b""
            self._fail(request, Fault.BAD_REQUEST)
        except Exception:  # the boundary of one request: ours to answer for, and to learn of
            logger.exception("a request could not be handled")
            self._fail(request, Fault.INTERNAL)

    def _on_verdict(self, verdict: Verdict) -> None:
        request, ids = self._request, self._server.gateway.request_ids
        if request is None:
            return  # failed meanwhile
        request.verdict, request.decided_s = verdict, time.perf_counter()
        if ids is not None:
            request.request_id = ids.of(request.message)
        try:
            self._follow(request, verdict)
        except Exception:  # the boundary of one request, as above: nothing may leave a client waiting
            logger.exception("a request failed after its decision")
            if self._exchange is not None:
                self._exchange.fail_internally()
            else:
                self._fail(request, Fault.INTERNAL)

    def _follow(self, request: Request, verdict: Verdict) -> None:
        gateway, message, transport = self._server.gateway, request.message, self.transport
        if transport is None or transport.is_closing():
            gateway.observe(request.record(CLIENT_LEFT))
        elif self._broken:
            self._fail(request, Fault.BAD_REQUEST)
        elif verdict.answer is _PASS:
            if message.method in COUNTED_METHODS and hops_left(message) == 0:
                self._answer_here(request, verdict)
            else:
                exchange = self._exchange = Exchange(gateway, self, request)
                exchange.forward()
        elif verdict.answer is _REFUSE:
            connection = request.last_lines(closing=self.closing)
            transport.write(gateway.refusals.of(verdict, head_only=message.method == "HEAD", connection=connection))
            gateway.observe(request.record(429))
            self.request_ended(keep=True)
        else:
            self._fail(request, Fault.STORE_UNAVAILABLE)

    def _answer_here(self, request: Request, verdict: Verdict) -> None:
        """Answer a TRACE or OPTIONS that may pass no more intermediaries, in the application's place."""
        fields = self._server.gateway.rate_limit_fields.of(verdict) if verdict.applied else b""
        self.write(last_hop_answer(request.message, fields, request.last_lines(closing=self.closing)))
        self._server.gateway.observe(request.record(200))
        self.request_ended(keep=True)

    def _fail(self, request: Request, fault: Fault) -> None:
        """Answer a request that gets nowhere."""
        keep = fault in KEEPS_CONNECTION
        connection = request.last_lines(closing=self.closing or not keep)
        self.write(fault_reply(fault, head_only=request.message.method == "HEAD", connection=connection))
        self._server.gateway.observe(request.record(fault.status, fault.reason))
        self.request_ended(keep=keep)

    def _refuse(self, fault: Fault) -> None:
        """Answer what is no request, and close."""
        self._answer_nobody(fault)
        self._linger()

    def _answer_nobody(self, fault: Fault) -> None:
        """Answer, and record, what is not known to be a request."""
        self.write(fault_reply(fault, head_only=False, connection=CLOSE))
        facts = RequestFacts("", "", NO_FIELDS, self.peer)
        self._server.gateway.observe(Record(facts, fault.status, None, fault.reason, 0.0, 0.0))

    def _is_too_large(self, message: RequestMessage) -> bool:
        """Whether the request announces a larger body than is taken; nothing of it is read then."""
        most, length = self._server.gateway.listen.max_body_bytes, message.headers.get(CONTENT_LENGTH)
        return most is not None and length is not None and int(length) > most

    def _close(self) -> None:
        """Close once everything is sent, if the client takes it in time."""
        if self.transport is not None:
            self.transport.close()
            self._deadline.set(self._server.settings.write_timeout_s)

    async def _show(self, request: Request, make_page: Page) -> None:
        try:
            status, content = await make_page(request.facts)
        except BadRequest:
            self._fail(request, Fault.BAD_REQUEST)
        except Exception:  # the boundary of one request
            logger.exception("a page could not be made")
            self._fail(request, Fault.INTERNAL)
        else:
            connection = request.last_lines(closing=self.closing)
            self.write(page(status, content, head_only=request.message.method == "HEAD", connection=connection))
            self.request_ended(keep=True)

    # What exchanges use

    @property
    def gone(self) -> bool:
        return self.transport is None or self.transport.is_closing()

    @property
    def answering(self) -> bool:
        return self._request is not None

    def write(self, data: bytes) -> None:
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    async def drain(self) -> None:
        if not self.writing_paused:
            return
        self._deadline.set(self._server.settings.write_timeout_s)
        await self._drain_helper()
        self._deadline.clear()

    def open_tunnel(self, head: bytes, application: UpstreamConnection) -> None:
        """See forward.Client. What the client sent behind its request is the first to pass."""
        transport = self.transport
        if transport is None or transport.is_closing():
            application.abort()
            return
        transport.write(head)
        self._request = self._exchange = None
        early, self._held = self._held, b""
        idle_timeout_s = self._server.gateway.listen.websocket_idle_timeout_s
        self._deadline.close()
        self.tunnel = Tunnel(
            transport, self.connection_lost, application.hand_over(), application.connection_lost, idle_timeout_s
        )
        self.tunnel.start(early, application.early)
        if self.closing:
            self.tunnel.go_away()

    def request_ended(self, *, keep: bool) -> None:
        request, transport = self._request, self.transport
        self._request = self._exchange = self._page = None
        if request is None or transport is None or transport.is_closing():
            return
        message, body = request.message, request.body
        self._parser.message_consumed()
        if not keep or not (body is EMPTY_BODY or body.is_eof()):
            self._linger()  # more may be on its way
        elif self.closing or message.should_close or (message.chunked and not self._is_clean()):
            self._close()
        else:
            self._busy = False
            self._deadline.set(self._server.settings.idle_timeout_s)
            if self._more or self._buffer_paused:
                self._advance()

    def _is_clean(self) -> bool:
        """Whether the parser is clean after a chunked request: no trailers, and nothing behind it (see edge/wire)."""
        if not ends_clean(self._last_bytes):
            return False
        try:
            return not self._parser.feed_data(b"")[0]
        except HttpProcessingError:
            return False

    def _linger(self) -> None:
        self._busy = True
        self.closing = True
        if self.gone:
            return
        self._lingering = LINGER_BYTES
        self._held = b""
        if self.transport is not None and self.transport.can_write_eof():
            self.transport.write_eof()
        self._reading_paused = False  # for the body that nobody reads any more
        self._resume_reading_for_buffer()
        self._deadline.set(LINGER_S)

    def _timed_out(self) -> None:
        if self._lingering is None and not self._busy and self._head_bytes:
            self._refuse(Fault.HEAD_TIMEOUT)
        elif self._exchange is not None:
            self._exchange.client_stalled()
        else:
            self.break_off()
