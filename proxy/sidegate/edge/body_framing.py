"""Body framing: counts a body's bytes, or decodes its chunks (RFC 9112 §6.3, §7.1). No I/O: bytes in, body bytes out.

The chunked grammar is strict, since a difference between two parsers allows request smuggling: sizes are one
to sixteen hexadecimal digits, lines end with CRLF, an extension holds visible text. Trailers are read and dropped (RFC
9110 §6.5.1 allows it); one that names a field which frames, routes or identifies a message breaks the body.
"""

import re
from enum import Enum

from sidegate.edge.failures import BadMessage
from sidegate.edge.field_names import FieldNames

# Bounds what a peer can make us hold of a line that does not end, and how many trailers it can make us read.
LONGEST_LINE_BYTES = 4096
MOST_TRAILER_BYTES = 16 * 1024

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t -~\x80-\xff]*)?")
_TRAILER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t -~\x80-\xff]*")


class CountedBody:
    """A body of a known length. `ended`: all of it was received; `rest` holds the bytes behind it."""

    __slots__ = ("_left", "ended", "rest")

    def __init__(self, length: int) -> None:
        self._left = length
        self.ended = length == 0
        self.rest = b""

    def take(self, data: bytes) -> bytes:
        """The bytes of the body in `data`."""
        left = self._left
        if len(data) < left:
            self._left = left - len(data)
            return data
        self._left, self.ended = 0, True
        self.rest = data[left:]
        return data[:left]


class EndlessBody:
    """A body that ends with its connection."""

    __slots__ = ("ended", "rest")

    def __init__(self) -> None:
        self.ended = False
        self.rest = b""

    def take(self, data: bytes) -> bytes:
        """The bytes of the body: all of `data`."""
        return data


class _ChunkState(Enum):
    SIZE = "a chunk's size line"
    DATA = "a chunk's data"
    DATA_END = "the line end behind a chunk's data"
    TRAILER = "a trailer, or the empty line that ends the message"


class ChunkedBody:
    """A chunked body; `ended` and `rest` as above. `names` classifies trailers: some are not allowed."""

    __slots__ = ("_held", "_left", "_names", "_state", "_trailer_bytes", "ended", "rest")

    def __init__(self, names: FieldNames) -> None:
        self._names = names
        self._state = _ChunkState.SIZE
        self._left = 0
        self._held = b""
        self._trailer_bytes = 0
        self.ended = False
        self.rest = b""

    def take(self, data: bytes) -> bytes:
        """The bytes of the body in `data`, without their framing. Raises BadMessage."""
        if self._state is _ChunkState.DATA and len(data) < self._left:  # the middle of a large chunk
            self._left -= len(data)
            return data
        if self._held:
            data = self._held + data
            self._held = b""
        pieces: list[bytes] = []
        at = 0
        while at < len(data) and not self.ended:
            if self._state is _ChunkState.DATA:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _ChunkState.DATA_END
                continue
            end = data.find(b"\n", at, at + LONGEST_LINE_BYTES)
            if end < 0:
                self._hold(data[at:])
                break
            if end == at or data[end - 1] != 0x0D:
                raise BadMessage(f"a bare line feed in {self._state.value}")
            self._take_line(data[at : end - 1])
            at = end + 1
        if self.ended:
            self.rest = data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _hold(self, begun: bytes) -> None:
        """Keep the beginning of a line. Raises BadMessage for bytes that no valid line begins with."""
        if len(begun) >= LONGEST_LINE_BYTES:
            raise BadMessage(f"a line too long in {self._state.value}")
        if self._state is not _ChunkState.TRAILER:
            pattern = _SIZE_LINE if self._state is _ChunkState.SIZE else None
            text = begun.removesuffix(b"\r").rstrip(b" \t")
            if text and (pattern is None or not pattern.fullmatch(text)):
                raise BadMessage(f"invalid bytes in {self._state.value}")
        self._held = begun

    def _take_line(self, line: bytes) -> None:
        match self._state:
            case _ChunkState.SIZE:
                size = _SIZE_LINE.fullmatch(line)
                if size is None:
                    raise BadMessage("an invalid chunk size")
                self._left = int(size[1], 16)
                self._state = _ChunkState.DATA if self._left else _ChunkState.TRAILER
            case _ChunkState.DATA_END:
                if line:
                    raise BadMessage("a chunk is longer than its size says")
                self._state = _ChunkState.SIZE
            case _:
                self._take_trailer(line)

    def _take_trailer(self, line: bytes) -> None:
        if not line:
            self.ended = True
            return
        self._trailer_bytes += len(line)
        match = _TRAILER.fullmatch(line)
        if match is None or self._trailer_bytes > MOST_TRAILER_BYTES:
            raise BadMessage("an invalid trailer, or too many")
        role = self._names[match[1]]
        if role is not None and not role.sent_on and role.name:
            raise BadMessage("a trailer that frames or routes the message")


Body = CountedBody | EndlessBody | ChunkedBody
