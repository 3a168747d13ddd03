"""Splits a file or a pipe into lines of bytes. Detects gzip by its first bytes; every buffer is bounded."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

# Size of a read, and the most that one step of decompression returns.
CHUNK_BYTES = 256 * 1024
# Longer lines are skipped: servers bound request heads, so no access log has them.
LONGEST_LINE_BYTES = 64 * 1024

_GZIP = b"\x1f\x8b"
_OTHER_PACKINGS = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz", b"BZh": "bzip2", b"PK\x03\x04": "zip"}
_LONGEST_MAGIC = 6
_BOM = b"\xef\xbb\xbf"


class BrokenInput(Exception):
    """The input cannot be read to its end. Lines read before are valid."""


def lines_of(stream: BinaryIO, on_read: Callable[[int], None]) -> Iterator[bytes | None]:
    """Yield the lines without line feeds; None for a line longer than LONGEST_LINE_BYTES.

    Calls `on_read` with the size of each piece of the input, before decompression. Raises BrokenInput.
    """
    pieces = _pieces(stream, on_read)
    start = b""
    for piece in pieces:
        start += piece
        if len(start) >= _LONGEST_MAGIC:
            break
    for magic, name in _OTHER_PACKINGS.items():
        if start.startswith(magic):
            raise BrokenInput(
                f"the input is compressed with {name}; only gzip is supported: decompress it and pipe it to -"
            )
    whole = _after(start, pieces)
    return _lines(_unpacked(whole) if start.startswith(_GZIP) else whole)


def _pieces(stream: BinaryIO, on_read: Callable[[int], None]) -> Iterator[bytes]:
    # read1 returns after one system call, so that the lines of a slow pipe are not delayed.
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
    """Decompress consecutive gzip members; zero bytes after the last are padding."""
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
                    raise BrokenInput("the gzip data is followed by other data")
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
        raise BrokenInput("the gzip data is truncated")


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
