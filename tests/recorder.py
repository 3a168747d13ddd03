"""An application that records requests and answers with scripted bytes: partial, invalid, late or none.

It runs its own event loop on a thread, so that tests are plain functions with plain sockets. It parses requests strictly
and records everything ambiguous in `faults`: a proxy must never forward an ambiguous request.
"""

import asyncio
import contextlib
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

Result = TypeVar("Result")

# Bounds every wait for an event, which takes milliseconds on an idle machine.
PATIENCE_S = 30.0
# Bytes of a body that are kept; the rest is counted only.
KEPT_BODY_BYTES = 1024 * 1024

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"

_REQUEST_LINE = re.compile(rb"[A-Z]+ (/[!-~\x80-\xff]*|\*) HTTP/1\.1")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([^\x00-\x08\x0a-\x1f\x7f]*)")
_PIECE = bytes(64 * 1024)


class Act(Enum):
    """Steps of an answer other than bytes."""

    CLOSE = "close"  # after the written bytes have been sent
    RESET = "reset"
    HOLD = "hold"  # until the test calls `release`
    ECHO = "echo"  # send back all received bytes, and keep them as the body, until the other side closes
    TARGET = "target"  # a complete answer whose body is the request's target
    SINK = "sink"  # as ECHO, but send nothing back


@dataclass(frozen=True, slots=True)
class Zeros:
    """`count` zero bytes, written no faster than the peer reads; in chunks of 64 KiB if `chunked`."""

    count: int
    chunked: bool = False


# Bytes are written, a float is a pause in seconds.
Step = bytes | float | Act | Zeros


class ReadBody(Enum):
    """How much of a request's body is read before the answer."""

    ALL = "all"
    NONE = "none"


@dataclass(slots=True)
class Answer:
    """The answer to one request."""

    steps: tuple[Step, ...] = (OK,)
    body: ReadBody = ReadBody.ALL


@dataclass(slots=True)
class Received:
    """One request as received. `complete`: with its whole body. `connection` counts from 0."""

    connection: int
    head: bytes
    body: bytes = b""
    body_bytes: int = 0
    complete: bool = False

    @property
    def method(self) -> str:
        return self.head.partition(b" ")[0].decode()

    @property
    def target(self) -> bytes:
        return self.head.split(b" ")[1]

    @property
    def fields(self) -> list[tuple[str, bytes]]:
        """Names in lower case, in order."""
        lines = self.head.split(b"\r\n")[1:]
        return [(name.decode("latin-1").lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]

    def values(self, name: str) -> list[bytes]:
        return [value for other, value in self.fields if other == name]

    def value(self, name: str) -> bytes:
        """The value of a field that must occur once."""
        (value,) = self.values(name)
        return value


@dataclass(slots=True)
class _Connection:
    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _State:
    requests: list[Received] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    answers: deque[Answer] = field(default_factory=deque)
    default: Answer = field(default_factory=Answer)


class Recorder:
    """A running recorder. Call `reset` between tests and `stop` at the end."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="recorder", daemon=True)
        self._thread.start()
        self._state = _State()
        self._open: dict[int, _Connection] = {}
        self._accepted = 0
        self._released = asyncio.Event()
        self._server = self._call(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]

    # Observations

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[Received]:
        """All requests since `reset` whose head has arrived, in order."""
        return list(self._state.requests)

    @property
    def faults(self) -> list[str]:
        """Ambiguities in the recorded requests."""
        return list(self._state.faults)

    @property
    def open(self) -> set[int]:
        """Numbers of the connections that are open."""
        return set(self._open)

    @property
    def accepted(self) -> int:
        """Number of connections so far."""
        return self._accepted

    def only(self) -> Received:
        """The one request that has arrived."""
        (request,) = self.requests
        return request

    def wait_for(self, count: int) -> list[Received]:
        """Wait until the heads of `count` requests have arrived."""
        eventually(lambda: len(self._state.requests) >= count, f"{count} requests at the application")
        return self.requests

    # Control

    def reset(self) -> None:
        """Clear the record, and close all connections."""
        self.close_all()
        self._state = _State()
        self._released.clear()

    def answer(self, *steps: Step, body: ReadBody = ReadBody.ALL) -> None:
        """Answer the next request without an answer with these steps."""
        self._state.answers.append(Answer(steps, body))

    def always(self, *steps: Step, body: ReadBody = ReadBody.ALL) -> None:
        """Answer all requests without an answer with these steps."""
        self._state.default = Answer(steps, body)

    def release(self) -> None:
        """Continue every answer at a HOLD step."""
        self._loop.call_soon_threadsafe(self._released.set)

    def say(self, data: bytes) -> None:
        """Send bytes on every open connection, with or without a request."""

        async def write() -> None:
            for connection in self._open.values():
                connection.writer.write(data)

        self._call(write())

    def close_all(self) -> None:
        """Close all connections; returns when that is done on this side."""

        async def close() -> None:
            tasks = [connection.task for connection in self._open.values() if connection.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._call(close())

    def stop(self) -> None:
        """Close all connections and end the thread."""
        self.close_all()

        async def close() -> None:
            self._server.close()
            await self._server.wait_closed()

        self._call(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    # Serving

    def _call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1024 * 1024, backlog=512)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self._accepted, reader, writer, asyncio.current_task())
        self._accepted += 1
        self._open[connection.number] = connection
        try:
            while await self._one_request(connection, self._state):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the proxy closed, or the test is over
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            del self._open[connection.number]

    async def _one_request(self, connection: _Connection, state: _State) -> bool:
        try:
            head = (await connection.reader.readuntil(b"\r\n\r\n"))[:-4]
        except asyncio.IncompleteReadError as error:
            if error.partial:
                state.faults.append(f"not a request: {error.partial[:80]!r}")
            return False
        request = Received(connection.number, head)
        state.requests.append(request)
        state.faults += _faults_in(request)
        answer = state.answers.popleft() if state.answers else state.default
        if answer.body is ReadBody.ALL:
            await self._read_body(connection.reader, request)
        else:
            request.complete = not (request.values("transfer-encoding") or request.values("content-length"))
        steps = answer.steps
        if request.method == "HEAD" and steps == (OK,):
            steps = (OK[:-2],)
        for step in steps:
            if not await self._take(step, connection, request):
                return False
        return request.complete

    async def _read_body(self, reader: asyncio.StreamReader, request: Received) -> None:
        if request.values("transfer-encoding"):
            while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
                await _read_piece(reader, request, size)
                if await reader.readexactly(2) != b"\r\n":
                    raise ConnectionError("a chunk does not end with CRLF")
            if await reader.readexactly(2) != b"\r\n":
                raise ConnectionError("there is a trailer")
        else:
            for length in request.values("content-length"):
                await _read_piece(reader, request, int(length))
        request.complete = True

    async def _take(self, step: Step, connection: _Connection, request: Received) -> bool:
        """Carry out one step; returns whether the connection continues."""
        writer = connection.writer
        match step:
            case bytes():
                writer.write(step)
                await writer.drain()
            case float():
                await asyncio.sleep(step)
            case Zeros():
                await _write_zeros(writer, step)
            case Act.HOLD:
                return await self._hold(connection)
            case Act.TARGET:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request.target), request.target))
                await writer.drain()
            case Act.CLOSE:
                return False
            case Act.ECHO | Act.SINK:
                await _read_to_end(connection, request, echo=step is Act.ECHO)
                return False
            case Act.RESET:
                linger_none = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_none)
                writer.transport.abort()
                return False
        return True

    async def _hold(self, connection: _Connection) -> bool:
        """Wait for `release`; returns False if the proxy closed the connection first."""
        while not self._released.is_set():
            if connection.reader.at_eof() or connection.writer.transport.is_closing():
                return False
            await asyncio.sleep(0.003)
        return True


async def _read_to_end(connection: _Connection, request: Received, *, echo: bool) -> None:
    while data := await connection.reader.read(256 * 1024):
        request.body_bytes += len(data)
        request.body += data[: KEPT_BODY_BYTES - len(request.body)]
        if echo:
            connection.writer.write(data)
            await connection.writer.drain()


async def _read_piece(reader: asyncio.StreamReader, request: Received, size: int) -> None:
    while size:
        data = await reader.read(min(size, 256 * 1024))
        if not data:
            raise ConnectionError("the body is not complete")
        size -= len(data)
        request.body_bytes += len(data)
        request.body += data[: KEPT_BODY_BYTES - len(request.body)]


async def _write_zeros(writer: asyncio.StreamWriter, zeros: Zeros) -> None:
    left = zeros.count
    while left:
        piece = _PIECE[:left]
        left -= len(piece)
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if zeros.chunked else piece)
        await writer.drain()
    if zeros.chunked:
        writer.write(b"0\r\n\r\n")


def _faults_in(request: Received) -> list[str]:
    """Parts of the request that another parser could read differently."""
    line, *lines = request.head.split(b"\r\n")
    faults = [] if _REQUEST_LINE.fullmatch(line) else [f"ambiguous request line {line[:80]!r}"]
    faults += [f"ambiguous field {text[:80]!r}" for text in lines if not _FIELD.fullmatch(text)]
    framing = request.values("content-length") + request.values("transfer-encoding")
    if len(framing) > 1 or not all(value.isdigit() or value == b"chunked" for value in framing):
        faults.append(f"ambiguous framing {framing!r}")
    if len(request.values("host")) != 1:
        faults.append(f"Host {request.values('host')!r}")
    if request.values("upgrade") not in ([], [b"websocket"]) or request.values("connection") not in ([], [b"Upgrade"]):
        faults.append(f"upgrade {request.values('upgrade')!r} {request.values('connection')!r}")
    forbidden = {"keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer", "http2-settings"}
    return faults + [f"hop-by-hop field {name}" for name, _ in request.fields if name in forbidden]


def eventually(condition: Callable[[], object], what: str, state: Callable[[], str] = str) -> None:
    """Wait until a condition holds; on timeout raises AssertionError with the state."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"timed out after {PATIENCE_S:g} s: {what}\n{state()}".rstrip())
        time.sleep(0.003)
