"""Runs the edge without a network: feeds bytes to both protocols and checks the invariants of all output.

The protocols, the exchange and the pool are the real ones. Only the transports are replaced: they deliver the pieces that
the test gives and keep everything that is written.
"""

import asyncio
import re
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from sidegate.config import Settings, compile_policies
from sidegate.decision.record import Record
from sidegate.decision.verdict import Answer, DecisionSource, Verdict
from sidegate.edge.buffers import BufferBudget
from sidegate.edge.client import ClientConnection
from sidegate.edge.field_names import response_names
from sidegate.edge.pool import Pool
from sidegate.edge.response_reader import ResponseReader
from sidegate.edge.runtime import Runtime, live_rules
from sidegate.edge.server import Server
from sidegate.edge.upstream import UpstreamConnection

from tests.recorder import OK

SETTINGS = Settings.model_validate({"listen": {"max_header_bytes": "4KiB"}, "policies": []})
PASSES = Verdict(Answer.PASS, DecisionSource.NO_POLICY)
# Turns of the event loop in which everything that can happen without time passing has happened.
TURNS = 12

_REQUEST_LINE = re.compile(rb"[A-Z-]+ (/[!-\"$-~\x80-\xff]*|\*) HTTP/1\.1")
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [\t -~]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([^\x00-\x08\x0a-\x1f\x7f]*)")
# An application's other control bytes may be kept (RFC 9110 §5.5); these three could end a field.
_ANSWER_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([^\x00\r\n]*)")


class Wire(asyncio.Transport):
    """A transport that keeps what is written. `on_write` is called with each write."""

    def __init__(self, on_write: Callable[[bytes], None] = lambda _: None) -> None:
        super().__init__()
        self.written = b""
        self.paused = self.lost = False
        self._closing = False
        self._on_write = on_write
        self._socket, self._far_end = socket.socketpair()
        self._protocol: Any = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)
        self._on_write(bytes(data))

    def deliver(self, data: bytes) -> None:
        """Let the protocol receive something, if it still can."""
        if not (self._closing or self.paused):
            self._protocol.data_received(data)

    def end(self) -> None:
        """The other side closes."""
        self.close()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._lose)

    abort = close

    def _lose(self) -> None:
        self.lost = True
        self._socket.close()
        self._far_end.close()
        self._protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """The client would see the end."""

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_reading(self) -> bool:
        return not self.paused

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"socket": self._socket, "peername": ("127.0.0.1", 4711)}.get(name, default)


def _pass(_: object, then: Callable[[Verdict], None]) -> None:
    then(PASSES)


class Edge:
    """One client connection before one application that answers whole requests with `answers`, in order, and then with
    `default`. A piece that is empty ends the connection. `decide` stands for the limiter.
    """

    def __init__(
        self, answers: Sequence[Sequence[bytes]] = (), default: bytes = OK, decide: Callable[..., Any] = _pass
    ) -> None:
        self._default = default
        self._loop = asyncio.get_running_loop()
        self._answers = list(answers)
        self._tasks: set[asyncio.Task[None]] = set()
        self.records: list[Record] = []
        self.errors: list[str] = []
        self.requests: list[bytes] = []
        self.to_application: list[Wire] = []
        self._loop.set_exception_handler(lambda _, context: self.errors.append(str(context)))
        policies = compile_policies(SETTINGS)
        self._pool = Pool(SETTINGS.upstream, response_names(), self._spawn)
        runtime = Runtime(
            live=live_rules(SETTINGS, policies),
            decide=decide,
            observe=self.records.append,
            pool=self._pool,
            spawn=self._spawn,
            started=SETTINGS.listen,
            authority=b"app:1",
            pages={},
            buffers=BufferBudget(2**20),
        )
        self._server = Server(runtime)
        # A connection for each of so many requests: a pool of idle ones is all that a pool needs to be given.
        for _ in range(8):
            self._connect()
        self.client = Wire()
        connection = ClientConnection(runtime, self._server, self._loop)
        self.client.set_protocol(connection)
        connection.connection_made(self.client)

    async def feed(self, pieces: Sequence[bytes]) -> None:
        """Let the client send these pieces, one in each turn of the loop."""
        for piece in pieces:
            self.client.deliver(piece)
            await asyncio.sleep(0)
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def close(self) -> None:
        """The client leaves; nothing is left behind."""
        self.client.close()
        self._pool.close()
        for wire in self.to_application:
            wire.close()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert not self._server.connections
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert self.errors == []

    def _connect(self) -> None:
        unread = b""
        wire: Wire

        def answer(data: bytes) -> None:
            nonlocal unread
            unread += data
            while (size := whole_request(unread)) is not None:
                self.requests.append(unread[:size])
                unread = unread[size:]
                head, blank, _ = self._default.partition(b"\r\n\r\n")
                whole = head + blank if self.requests[-1].startswith(b"HEAD ") else self._default
                pieces = self._answers.pop(0) if self._answers else [whole]
                for piece in pieces:
                    self._loop.call_soon(wire.deliver if piece else lambda _: wire.end(), piece)

        wire = Wire(answer)
        connection = UpstreamConnection(ResponseReader(response_names()), self._loop, lambda _: None)
        wire.set_protocol(connection)
        connection.connection_made(wire)
        self.to_application.append(wire)
        self._pool._idle.append(connection)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def whole_request(data: bytes) -> int | None:
    """The size of the first request that an application received; None if it is incomplete. Strict."""
    head, blank, rest = data.partition(b"\r\n\r\n")
    if not blank:
        assert b"\n" not in data.replace(b"\r\n", b""), data
        return None
    line, *lines = head.split(b"\r\n")
    assert _REQUEST_LINE.fullmatch(line), line
    matches = [_FIELD.fullmatch(text) for text in lines]
    assert all(matches), lines
    fields = [(match[1].lower(), match[2]) for match in matches if match]
    framing = [(name, value) for name, value in fields if name in (b"content-length", b"transfer-encoding")]
    assert len(framing) <= 1, fields
    assert [name for name, _ in fields].count(b"host") == 1, fields
    if not framing:
        return len(head) + 4
    ((name, value),) = framing
    if name == b"content-length":
        assert value.isdigit(), value
        return len(head) + 4 + int(value) if len(rest) >= int(value) else None
    assert value == b"chunked", value
    body = whole_chunked(rest)
    return None if body is None else len(head) + 4 + body


def whole_chunked(data: bytes) -> int | None:
    """The size of the chunked body at the start; None if it is incomplete. Accepts no trailers and no extensions."""
    at = 0
    while True:
        line, end, _ = data[at:].partition(b"\r\n")
        if not end:
            return None
        assert re.fullmatch(rb"[0-9a-f]+", line), line
        size = int(line, 16)
        at += len(line) + 2 + size
        if len(data) < at + 2:
            return None
        assert data[at : at + 2] == b"\r\n"
        at += 2
        if not size:
            return at


def statuses_in(received: bytes, methods: Sequence[str]) -> list[int]:
    """Statuses of the complete final answers to requests of these methods. Raises AssertionError for other bytes."""
    found: list[int] = []
    while received:
        head, blank, rest = received.partition(b"\r\n\r\n")
        if not blank:
            return found
        line, *lines = head.split(b"\r\n")
        match = _STATUS_LINE.fullmatch(line)
        assert match, line
        fields = [_ANSWER_FIELD.fullmatch(text) for text in lines]
        assert all(fields), lines
        status = int(match[1])
        named = {field[1].lower(): field[2] for field in fields if field}
        framing = [name for name in (b"content-length", b"transfer-encoding") if name in named]
        assert len(framing) <= 1, named
        method = methods[len(found)] if len(found) < len(methods) else "GET"
        if status < 200:
            received = rest
            continue
        if method == "HEAD" or status in (204, 304):
            size: int | None = 0
        elif framing == [b"transfer-encoding"]:
            size = whole_chunked(rest)
        elif framing:
            size = int(named[b"content-length"])
        else:
            size = len(rest)  # to the end of the connection
        if size is None or len(rest) < size:
            return found
        found.append(status)
        received = rest[size:]
    return found
