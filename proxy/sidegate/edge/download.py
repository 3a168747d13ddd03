"""An answer's body on its way to the client: how it is framed there, and its pieces."""

from typing import NamedTuple, Protocol

from sidegate.edge.heads import NO_BODY, ResponseHead
from sidegate.edge.upload import CHUNKED_LINE, LAST_CHUNK, chunk


class AnswerFraming(NamedTuple):
    """The framing line; whether the body is sent in chunks; whether only the connection's end can end it."""

    line: bytes
    chunked: bool = False
    closes: bool = False


class AnswerSink(Protocol):
    """The connection that the answer goes to."""

    def write(self, data: bytes) -> None:
        """Send, unless the client has left."""


def framing_of(head: ResponseHead, minor: int) -> AnswerFraming:
    """How an answer is framed that has no body, or whose body is still coming; `minor` is the client's HTTP/1.x."""
    length = head.framing
    if length is NO_BODY:
        announced = head.announced if head.status != 204 else b""
        return AnswerFraming(b"Content-Length: %b\r\n" % announced if announced else b"")
    if isinstance(length, int):
        return AnswerFraming(b"Content-Length: %d\r\n" % length)
    return AnswerFraming(CHUNKED_LINE, chunked=True) if minor else AnswerFraming(b"", closes=True)


def send_piece(sink: AnswerSink, content: bytes, *, chunked: bool, ended: bool) -> None:
    """Send a piece of the body, and its end."""
    if chunked:
        content = (chunk(content) if content else b"") + (LAST_CHUNK if ended else b"")
    if content:
        sink.write(content)
