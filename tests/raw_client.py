"""An HTTP client that sends given bytes unchanged and parses answers strictly."""

import contextlib
import json
import re
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

# Bounds every read; a sidecar answers in milliseconds.
PATIENCE_S = 30.0

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) ([\t -~]*)")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([^\x00-\x08\x0a-\x1f\x7f]*)")


@dataclass(slots=True)
class Reply:
    """One answer. `complete`: its whole body was received. `interim`: the 1xx answers before it."""

    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: bytes = b""
    complete: bool = False
    interim: list["Reply"] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        return [value for other, value in self.fields if other.lower() == name.lower()]

    def value(self, name: str) -> str:
        """The value of a field that must occur once."""
        (value,) = self.values(name)
        return value

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def says_close(self) -> bool:
        return "close" in [value.lower() for value in self.values("Connection")]


class Broken(Exception):
    """The connection ended before or within an answer."""


class RawClient:
    """One connection. Use it as a context manager."""

    def __init__(self, port: int, *, receive_buffer_bytes: int = 0, patience_s: float = PATIENCE_S) -> None:
        self._socket = socket.socket()
        if receive_buffer_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._socket.settimeout(patience_s)
        try:
            self._socket.connect(("127.0.0.1", port))
        except OSError:
            self._socket.close()
            raise
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    @property
    def address(self) -> tuple[str, int]:
        name: tuple[str, int] = self._socket.getsockname()
        return name

    def send(self, data: bytes) -> None:
        """Send; ignores a connection that the other side has closed."""
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(data)

    def get(self, target: str = "/", *fields: str, method: str = "GET", body: bytes | None = None) -> Reply:
        """Send a plain request and read its answer."""
        self.send(request(target, *fields, method=method, body=body))
        return self.reply(to=method)

    def finish_sending(self) -> None:
        """Close the sending side only."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close the connection by a TCP reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def reply(self, *, to: str = "GET") -> Reply:
        """Read one answer and the 1xx answers before it. Raises Broken if the connection ends first."""
        interim: list[Reply] = []
        while True:
            reply = self._head()
            if reply.status >= 200 or reply.status == 101:
                break
            interim.append(reply)
        reply.interim = interim
        self._read_body(reply, to)
        return reply

    def rest(self) -> bytes:
        """All bytes until the connection ends. Raises Broken after a reset, TimeoutError if it does not end."""
        while self._receive():
            pass
        data, self._unread = self._unread, b""
        return data

    def ends(self) -> bool:
        """Wait until the connection ends; return whether nothing more was received."""
        try:
            return not self.rest()
        except Broken:
            return True

    def read(self, count: int) -> bytes:
        """Read exactly `count` bytes."""
        while len(self._unread) < count:
            if not self._receive():
                raise Broken(f"ended after {len(self._unread)} of {count} bytes")
        data, self._unread = self._unread[:count], self._unread[count:]
        return data

    def count_rest_of(self, count: int) -> None:
        """Read and discard exactly `count` bytes, for bodies that do not fit in memory."""
        count -= len(self._unread)
        self._unread = b""
        while count > 0:
            if not (data := self._socket.recv(min(count, 1024 * 1024))):
                raise Broken(f"{count} bytes are missing")
            count -= len(data)

    def chunk(self) -> bytes:
        """One chunk of a chunked body."""
        data = self.read(int(self._line(), 16))
        assert self.read(2) == b"\r\n"
        return data

    def count_rest_of_answer(self) -> None:
        """Read and discard all bytes until the connection ends. Raises Broken after a reset."""
        self._unread = b""
        while self._receive():
            self._unread = b""

    def head(self) -> Reply:
        """The head of an answer only."""
        return self._head()

    def _head(self) -> Reply:
        while b"\r\n\r\n" not in self._unread:
            if not self._receive():
                raise Broken(f"no answer, but {self._unread!r}")
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        found = _STATUS_LINE.fullmatch(line)
        assert found, f"not a status line: {line!r}"
        matches = [_FIELD.fullmatch(text) for text in lines]
        assert all(matches), f"an invalid field: {lines!r}"
        fields = [(match[1].decode("latin-1"), match[2].decode("latin-1")) for match in matches if match]
        return Reply(int(found[1]), found[2].decode("latin-1"), fields)

    def _read_body(self, reply: Reply, method: str) -> None:
        lengths, codings = reply.values("Content-Length"), reply.values("Transfer-Encoding")
        assert len(lengths) + len(codings) <= 1, f"ambiguous framing: {reply.fields!r}"
        try:
            if method == "HEAD" or reply.status in (101, 204, 304):
                reply.complete = True
            elif codings:
                assert codings == ["chunked"]
                self._read_chunks(reply)
            elif lengths:
                reply.body = self.read(int(lengths[0]))
                reply.complete = True
            else:
                reply.body = self.rest()
                reply.complete = True
        except Broken:
            reply.body += self._unread
            self._unread = b""

    def _read_chunks(self, reply: Reply) -> None:
        while size := int(self._line(), 16):
            reply.body += self.read(size)
            assert self.read(2) == b"\r\n"
        assert self._line() == b"", "trailers are not expected"
        reply.complete = True

    def _line(self) -> bytes:
        while b"\r\n" not in self._unread:
            if not self._receive():
                raise Broken("ended within a line")
        line, _, self._unread = self._unread.partition(b"\r\n")
        return line

    def _receive(self) -> bool:
        try:
            data = self._socket.recv(256 * 1024)
        except ConnectionError as error:
            raise Broken("reset") from error
        self._unread += data
        return bool(data)


def request(target: str = "/", *fields: str, method: str = "GET", body: bytes | None = None) -> bytes:
    """A plain request as bytes."""
    lines = [f"{method} {target} HTTP/1.1", "Host: app.test", *fields]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def get(port: int, target: str = "/", *fields: str, method: str = "GET", body: bytes | None = None) -> Reply:
    """Send one plain request on a new connection."""
    with RawClient(port) as client:
        return client.get(target, *fields, method=method, body=body)
