"""A request that may pass, on its way: to the application, back to the client, into the record.

Theory of operation. An exchange begins with a verdict that lets the request pass; it is a small state machine driven
by callbacks: a connection, the answer's head, or a failure of either side. The common request (no body, or one that
has arrived whole; an answer that has arrived whole) takes no task: one write to the application, one write to the
client. A body that is still arriving, in either direction, is passed on by a coroutine that the exchange owns, piece
by piece, and never faster than the receiver takes it.

    forward → a connection → head sent → answer's head → answer's body → end
                           └ body sent ┘

Whatever happens, `_end` is called exactly once, and then the record is told. The client's leaving ends the exchange and
aborts the connection to the application, which may still be working on the request. A request is sent a second time
only where a reused connection turned out to be closed before any byte of an answer, the method is idempotent (RFC 9110
§9.2.2) and the whole body is at hand.
"""

import asyncio
import time
from typing import Protocol

from sidegate.edge.body_rate import BodyPatience
from sidegate.edge.gateway import Gateway
from sidegate.edge.headers import END_OF_ANSWER_HEAD, Fields, passed_on, response_head
from sidegate.edge.max_forwards import COUNTED_METHODS, hops_left, one_hop_less
from sidegate.edge.replies import KEEPS_CONNECTION, Fault, fault_reply
from sidegate.edge.request import Request
from sidegate.edge.upstream import (
    AnswerHead,
    BrokenReply,
    Busy,
    ConnectFailed,
    ConnectTimedOut,
    QueueFull,
    Stalled,
    TimedOut,
    UpstreamConnection,
    UpstreamError,
)
from sidegate.edge.wire import (
    BROKEN_BODY,
    CONNECTION,
    CONTENT_LENGTH,
    EMPTY_BODY,
    EXPECT,
    Body,
    ResponseMessage,
)

# RFC 9110 §9.2.2: repeating these has the same effect as doing them once.
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
CLIENT_LEFT = 499  # nginx's number for a request whose client did not wait; never sent

CHUNKED = b"Transfer-Encoding: chunked\r\n"
CONTENT_LENGTH_0 = b"Content-Length: 0\r\n"
LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


class Client(Protocol):
    """The client's side of an exchange."""

    closing: bool  # whether the connection ends after the present answer, whatever the client wishes

    def write(self, data: bytes) -> None:
        """Send, unless gone."""

    async def drain(self) -> None:
        """Wait until the client takes more. Raises ConnectionError where it has left."""

    def request_ended(self, *, keep: bool) -> None:
        """The answer is complete; the connection may be used again if `keep` and the request allow it."""

    def break_off(self) -> None:
        """The answer cannot be completed: end the connection so that it cannot look complete."""

    def open_tunnel(self, head: bytes, application: UpstreamConnection) -> None:
        """Send an answer's head that switches protocols, and join the connections; the request ends with that."""


class _BadBody(Exception):
    """The client's body cannot be taken any further."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.reason)
        self.fault = fault


class Exchange:
    """See the module's text.

    What stands in the class is what most exchanges never change: it costs them nothing.
    """

    _connection: UpstreamConnection | None = None
    _data = b""
    _status = 0
    _keep = True
    _ended = False
    _retried = False
    _alarm: asyncio.TimerHandle | None = None
    _upload_task: asyncio.Task[None] | None = None
    _relay_task: asyncio.Task[None] | None = None

    def __init__(self, gateway: Gateway, client: Client, request: Request) -> None:
        self._gateway = gateway
        self._client = client
        self._request = request
        self._message = message = request.message
        self._body = body = request.body
        # Decided once: the rest of the body may arrive while the request waits for a connection.
        self._streaming = body is not EMPTY_BODY and not body.is_eof()
        self._upgrade = message.upgrade and _asks_for_websocket(request)

    # To the application

    def forward(self) -> None:
        """Send the request on. Not to be called for a request that was not let pass."""
        gateway, request = self._gateway, self._request
        if (total_s := gateway.upstream.total_timeout_s) is not None:
            self._alarm = asyncio.get_running_loop().call_later(total_s, self._give_up, Fault.TOTAL_TIMEOUT)
        if request.forwarding is gateway.forwarding:
            self._data = request.forwarded
        elif self._body is EMPTY_BODY:
            self._data = self._head(CONTENT_LENGTH_0 if CONTENT_LENGTH in self._message.headers else b"")
            if gateway.request_ids is None:
                request.forwarding, request.forwarded = gateway.forwarding, self._data
        elif self._streaming:
            self._data = self._head(self._streaming_framing())
        else:
            body = self._body.read_nowait()
            if self._is_too_large(len(body)):
                self._fail(Fault.BODY_TOO_LARGE)
                return
            self._data = self._head(b"Content-Length: %d\r\n" % len(body)) + body
        self._acquire()

    def _streaming_framing(self) -> bytes:
        message = self._message
        if EXPECT in message.headers and not self._is_http_1_0:
            self._client.write(CONTINUE)
        return CHUNKED if message.chunked else b"Content-Length: %d\r\n" % int(message.headers[CONTENT_LENGTH])

    def _head(self, framing: bytes) -> bytes:
        """The head that goes to the application."""
        gateway, message, peer = self._gateway, self._message, self._request.facts.peer
        return gateway.forwarding.request_head(
            message.method,
            message.path,
            self._without_ids(self._fields_less_a_hop() if message.method in COUNTED_METHODS else message.raw_headers),
            message.headers.getall(CONNECTION, ()),
            peer,
            gateway.policies.identity.trusts(peer),
            self._request.id_line + (UPGRADE if self._upgrade else framing),
        )

    def _fields_less_a_hop(self) -> Fields:
        fields, hops = self._message.raw_headers, hops_left(self._message)
        return fields if hops is None else one_hop_less(fields, hops)

    def _without_ids(self, fields: Fields) -> Fields:
        """What is passed on beside the request's own id: everything, or everything but other ids of it."""
        ids = self._gateway.request_ids
        return fields if ids is None else ids.without(fields)

    def _acquire(self, *, fresh: bool = False) -> None:
        self._gateway.pool.acquire(self, fresh=fresh, sure=not self._repeatable)

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Send the request (see pool.Wanting)."""
        self._connection = connection
        settings = self._gateway.upstream
        connection.send(
            self,
            self._data,
            head_only=self._message.method == "HEAD",
            timeout_s=0.0 if self._streaming else settings.response_timeout_s,
            between_s=settings.between_bytes_timeout_s,
        )
        if self._streaming:
            self._upload_task = self._gateway.spawn(self._upload(connection))

    async def _upload(self, connection: UpstreamConnection) -> None:
        settings, chunked = self._gateway.upstream, self._message.chunked
        listen = self._gateway.listen
        patience = BodyPatience(listen.body_timeout_s, listen.min_body_bytes_per_s)
        try:
            while data := await self._piece(patience):
                connection.write(_chunk(data) if chunked else data)
                async with asyncio.timeout(settings.between_bytes_timeout_s):
                    await connection.drain()
        except TimeoutError:
            self._give_up(Fault.UPSTREAM_STALLED)
        except _BadBody as error:
            self._give_up(error.fault)
        except BROKEN_BODY:
            # Either the client broke its framing, which the server reports by `request_broken`, or the application
            # closed, which it reports itself, perhaps after an early answer.
            return
        else:
            if chunked:
                connection.write(LAST_CHUNK)
            connection.expect_answer(settings.response_timeout_s)

    async def _piece(self, patience: BodyPatience) -> bytes:
        """More of the client's body; empty at its end."""
        body, since_s = self._body, time.perf_counter()
        try:
            async with asyncio.timeout(patience.left_s):
                data = await body.readany()
        except TimeoutError as error:
            raise _BadBody(Fault.BODY_TIMEOUT) from error
        patience.received(len(data), time.perf_counter() - since_s)
        if self._is_too_large(body.total_bytes):
            raise _BadBody(Fault.BODY_TOO_LARGE)
        return data

    def _is_too_large(self, body_bytes: int) -> bool:
        most = self._gateway.listen.max_body_bytes
        return most is not None and body_bytes > most

    # To the client

    def on_response(self, message: ResponseMessage, body: Body) -> None:
        """Pass on the answer's head, and its body as far as it has come (see upstream.Using)."""
        if message.code < 200:
            self._on_interim(message)
            return
        self._status = message.code
        bodyless = self._head_only or message.code in (204, 304)
        complete = bodyless or body.is_eof()
        data = b"" if bodyless else body.read_nowait()
        framing, chunked = self._answer_framing(message, bodyless=bodyless, length=len(data) if complete else None)
        ours = framing + self._rate_limit_lines() + self._last_lines()
        named = message.headers.getall(CONNECTION, ())
        head = response_head(message.code, message.reason, self._without_ids(message.raw_headers), named, ours)
        if complete:
            self._client.write(head + data)
            self._finish()
        else:
            self._client.write(head + (_chunk(data) if chunked and data else data))
            self._relay_task = self._gateway.spawn(self._relay(body, chunked=chunked))

    def on_whole_answer(self, head: AnswerHead, body: bytes) -> None:
        """The same in one step, for an answer that came whole (see upstream.Using)."""
        self._status = head.message.code
        if self._gateway.request_ids is not None:
            kept = self._kept_of(head)
        elif not (kept := head.kept):
            kept = head.kept = self._kept_of(head)
        lines, last = self._rate_limit_lines(), self._last_lines()
        self._client.write(b"%b%b%b%b%b" % (kept, lines, last, END_OF_ANSWER_HEAD, body))
        self._finish()

    def _kept_of(self, head: AnswerHead) -> bytes:
        """What of an answer's head goes on to every client, with its framing."""
        message = head.message
        named = message.headers.getall(CONNECTION, ())
        fields = self._without_ids(message.raw_headers)
        return passed_on(message.code, message.reason, fields, named) + b"Content-Length: %d\r\n" % head.body_bytes

    def _on_interim(self, message: ResponseMessage) -> None:
        if message.code == 101:
            if self._upgrade and message.upgrade and message.headers.get("Upgrade", "").lower() == "websocket":
                self._switch(message)
            else:
                self._give_up(Fault.UPSTREAM_BROKEN)  # nobody asked to switch protocols, or not to this one
        elif message.code != 100 and not self._is_http_1_0:
            named = message.headers.getall(CONNECTION, ())
            self._client.write(response_head(message.code, message.reason, message.raw_headers, named, b""))

    def _switch(self, message: ResponseMessage) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None  # noqa: S101  (its answer is being told)
        self._status = message.code
        named = message.headers.getall(CONNECTION, ())
        ours = self._rate_limit_lines() + self._request.id_line + UPGRADE
        head = response_head(101, message.reason, self._without_ids(message.raw_headers), named, ours)
        self._client.open_tunnel(head, connection)
        self._end(message.code)

    def _rate_limit_lines(self) -> bytes:
        verdict = self._request.verdict
        return self._gateway.rate_limit_fields.of(verdict) if verdict is not None and verdict.applied else b""

    def _answer_framing(self, message: ResponseMessage, *, bodyless: bool, length: int | None) -> tuple[bytes, bool]:
        """The framing line of the answer, and whether its body is to be chunked."""
        announced = message.headers.get(CONTENT_LENGTH)
        if bodyless:
            framed = announced is not None and message.code != 204
            return (b"Content-Length: %b\r\n" % announced.encode() if framed and announced else b""), False
        if length is None:
            length = int(announced) if announced is not None and not message.chunked else None
        if length is not None:
            return b"Content-Length: %d\r\n" % length, False
        if self._is_http_1_0:
            self._keep = False  # the end of the connection is the only end such a body can have
            return b"", False
        return CHUNKED, True

    async def _relay(self, body: Body, *, chunked: bool) -> None:
        client = self._client
        try:
            while data := await body.readany():
                client.write(_chunk(data) if chunked else data)
                await client.drain()
        except (*BROKEN_BODY, UpstreamError) as error:
            self._drop_connection()
            client.break_off()
            self._end(self._status, error=_fault_of(error).reason)
        else:
            if chunked:
                client.write(LAST_CHUNK)
            self._finish()

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._upload_task is not None and not self._upload_task.done():
                # An early answer: the rest of the request is of no interest to anybody.
                self._upload_task.cancel()
                connection.abort()
            else:
                self._gateway.pool.release(connection)
        self._end(self._status)

    # When something goes wrong

    def on_upstream_error(self, error: UpstreamError) -> None:
        """Try once more where that is safe, else answer for the application (see upstream.Using and pool.Wanting)."""
        connection, self._connection = self._connection, None
        stale = connection is not None and connection.reused and not connection.answered
        if stale and self._repeatable and isinstance(error, BrokenReply) and not self._retried:
            self._retried = True
            self._acquire(fresh=True)
            return
        if self._upload_task is not None:
            self._upload_task.cancel()
        self._fail(_fault_of(error))

    def request_broken(self) -> None:
        """The client broke the framing of its request's body."""
        self._give_up(Fault.BAD_REQUEST)

    def client_left(self) -> None:
        """The client's connection is lost."""
        self._stop()
        self._end(CLIENT_LEFT)

    def client_stalled(self) -> None:
        """The client does not take the answer."""
        self._give_up(Fault.WRITE_TIMEOUT)

    def fail_internally(self) -> None:
        """Something of ours raised while this exchange was under way (see upstream.Using)."""
        self._give_up(Fault.INTERNAL)

    def _give_up(self, fault: Fault) -> None:
        self._stop()
        self._fail(fault)

    def _stop(self) -> None:
        self._gateway.pool.cancel(self)
        self._drop_connection()
        for task in (self._upload_task, self._relay_task):
            if task is not None and task is not asyncio.current_task():
                task.cancel()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    # Answering and ending

    def _fail(self, fault: Fault) -> None:
        if self._status:
            self._client.break_off()
            self._end(self._status, error=fault.reason)
            return
        self._keep = fault in KEEPS_CONNECTION
        self._client.write(fault_reply(fault, head_only=self._head_only, connection=self._last_lines()))
        self._end(fault.status, error=fault.reason)

    def _end(self, status: int, error: str = "") -> None:
        if not self._ended:
            self._ended = True
            if self._alarm is not None:
                self._alarm.cancel()
            self._gateway.observe(self._request.record(status, error))
            self._client.request_ended(keep=self._keep)

    def _last_lines(self) -> bytes:
        return self._request.last_lines(closing=self._client.closing or not self._keep)

    @property
    def _head_only(self) -> bool:
        return self._message.method == "HEAD"

    @property
    def _is_http_1_0(self) -> bool:
        return self._message.version.minor == 0

    @property
    def _repeatable(self) -> bool:
        return self._message.method in IDEMPOTENT and not self._streaming


def _asks_for_websocket(request: Request) -> bool:
    """Whether a request that asks for another protocol asks for this one, as RFC 6455 §4.1 wants it: no body, 1.1."""
    message = request.message
    asked = [name.lower() for name in message.headers.getall("Upgrade", ())]
    body = message.chunked or CONTENT_LENGTH in message.headers
    return asked == ["websocket"] and message.method == "GET" and message.version.minor == 1 and not body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _fault_of(error: Exception) -> Fault:
    match error:
        case ConnectTimedOut():
            return Fault.UPSTREAM_CONNECT_TIMEOUT
        case ConnectFailed():
            return Fault.UPSTREAM_CONNECT
        case QueueFull():
            return Fault.UPSTREAM_QUEUE_FULL
        case Busy():
            return Fault.UPSTREAM_BUSY
        case TimedOut():
            return Fault.UPSTREAM_TIMEOUT
        case Stalled():
            return Fault.UPSTREAM_STALLED
        case _:
            return Fault.UPSTREAM_BROKEN
