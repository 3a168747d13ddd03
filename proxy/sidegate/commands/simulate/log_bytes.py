"""From a file or a pipe to lines of bytes: gzip by its first bytes, every buffer bounded, damage told and not
hidden."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

# Read and unpacked in pieces of this size; it also bounds what a few bytes of gzip may swell to at once.
CHUNK_BYTES = 256 * 1024
# No server writes longer lines for requests it took (heads are bounded); what is longer is skipped, not held.
LONGEST_LINE_BYTES = 64 * 1024

_GZIP = b"\x1f\x8b"
_OTHER_PACKINGS = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz", b"BZh": "bzip2", b"PK\x03\x04": "zip"}
_LONGEST_MAGIC = 6
_BOM = b"\xef\xbb\xbf"


class BrokenInput(Exception):
    """The input cannot be read to its end. What was read before stands."""


def lines_of(stream: BinaryIO, on_read: Callable[[int], None]) -> Iterator[bytes | None]:
    """The input's lines without their line ends (LF or CRLF); None in the place of one longer than LONGEST_LINE_BYTES.

    `on_read` is told the size of every piece as it lies in the input, packed or not. Raises BrokenInput.
    """
    pieces = _pieces(stream, on_read)
    start = b""
    for piece in pieces:
        start += piece
        if len(start) >= _LONGEST_MAGIC:
            break
    for magic, name in _OTHER_PACKINGS.items():
        if start.startswith(magic):
            raise BrokenInput(f"it is packed with {name}; only gzip is read here: unpack it and pipe it in as -")
    whole = _after(start, pieces)
    return _lines(_unpacked(whole) if start.startswith(_GZIP) else whole)


def _pieces(stream: BinaryIO, on_read: Callable[[int], None]) -> Iterator[bytes]:
    # One system call a piece where the stream can, so that a slow pipe is followed as it comes.
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    while True:
        try:
            piece = read(CHUNK_BYTES)
        except OSError as error:
            raise BrokenInput(f"reading failed: {error.strerror or error}") from error
        if not piece:
            return
        on_read(len(piece))
        yield piece


def _after(start: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    yield start
    yield from pieces


def _unpacked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What is packed in one gzip member after another; zero bytes after the last are padding."""
    member = None
    rest = b""
    for piece in pieces:
        rest += piece
        while rest:
            if member is None:
                rest = rest.lstrip(b"\0")
                if len(rest) < len(_GZIP) and _GZIP.startswith(rest):
                    break  # a member may begin with the next piece
                if not rest.startswith(_GZIP):
                    raise BrokenInput("something that is not gzip follows the gzip data")
                member = zlib.decompressobj(wbits=31)
            try:
                unpacked = member.decompress(rest, CHUNK_BYTES)
            except zlib.error as error:
                raise BrokenInput(f"the gzip data is damaged ({error})") from error
            rest = member.unused_data if member.eof else member.unconsumed_tail
            if member.eof:
                member = None
            if unpacked:
                yield unpacked
    if member is not None or rest:
        raise BrokenInput("the gzip data is cut off")


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes | None]:
    rest, overlong, first = b"", False, True
    for piece in pieces:
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()
        for line in lines:
            if overlong or len(line) > LONGEST_LINE_BYTES:
                overlong = False
                yield None
            else:
                yield line.removeprefix(_BOM) if first else line
            first = False
        if len(rest) > LONGEST_LINE_BYTES:
            rest, overlong = b"", True
    if overlong:
        yield None
    elif last := rest.removeprefix(_BOM) if first else rest:
        yield last
