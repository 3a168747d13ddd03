"""Splits bytes into lines: plain or compressed, complete or damaged, always in bounded pieces."""

import bz2
import gzip
import io
import lzma
import random
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidegate.commands.simulate.log_bytes import CHUNK_BYTES, LONGEST_LINE_BYTES, BrokenInput, lines_of

NOISE = random.Random(7).randbytes(3 * CHUNK_BYTES)


def read(data: bytes) -> tuple[list[bytes | None], str]:
    """Return the lines, and the reason why reading stopped; empty at a proper end."""
    lines: list[bytes | None] = []
    try:
        for line in lines_of(io.BytesIO(data), lambda _: None):
            lines.append(line)  # noqa: PERF402  (the lines before an exception are needed)
    except BrokenInput as error:
        return lines, str(error)
    return lines, ""


class Trickle(io.RawIOBase):
    """A pipe that returns one byte for each read."""

    def __init__(self, data: bytes) -> None:
        self._left = data

    def read(self, _: int = -1) -> bytes:
        given, self._left = self._left[:1], self._left[1:]
        return given


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\nb", [b"a", b"b"]),
        (b"\n\na\n", [b"", b"", b"a"]),
        (b"\xef\xbb\xbfa\nb\n", [b"a", b"b"]),
        (b"\xef\xbb\xbfa", [b"a"]),
        (b"a\r\nb\r\n", [b"a\r", b"b\r"]),
    ],
)
def test_lines_end_with_a_line_feed_or_with_the_input(data: bytes, lines: list[bytes]) -> None:
    assert read(data) == (lines, "")
    assert read(gzip.compress(data)) == (lines, "")


def test_several_gzip_members_with_padding_are_one_log() -> None:
    assert read(gzip.compress(b"a\nb") + gzip.compress(b"c\n") + b"\0" * 512) == ([b"a", b"bc"], "")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_pipe_with_small_reads_yields_the_same_lines(pack: Callable[[bytes], bytes]) -> None:
    data = pack(b"first\nsecond\n")
    assert list(lines_of(Trickle(data), lambda _: None)) == [b"first", b"second"]  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [LONGEST_LINE_BYTES + 1, CHUNK_BYTES, 5 * CHUNK_BYTES])
@pytest.mark.parametrize("end", [b"", b"\n", b"\nafter\n"])
def test_overlong_line_yields_one_none_and_the_next_line_is_complete(length: int, end: bytes) -> None:
    expected: list[bytes | None] = [b"before", None]
    if end == b"\nafter\n":
        expected.append(b"after")
    assert read(b"before\n" + b"x" * length + end) == (expected, "")


def test_line_of_the_maximum_length_is_read() -> None:
    assert read(b"x" * LONGEST_LINE_BYTES + b"\n") == ([b"x" * LONGEST_LINE_BYTES], "")


def test_gzip_bomb_is_decompressed_in_pieces() -> None:
    assert read(gzip.compress(b"\0" * 50_000_000)) == ([None], "")


def test_truncated_gzip_yields_the_lines_before_the_cut_and_the_reason() -> None:
    whole = gzip.compress(b"".join(b"%d\n" % number for number in range(200_000)))
    lines, why = read(whole[: len(whole) // 2])
    assert why == "the gzip data is truncated"
    assert lines[:3] == [b"0", b"1", b"2"]
    assert 50_000 < len(lines) < 200_000
    assert lines == [b"%d" % number for number in range(len(lines))]


@pytest.mark.parametrize(
    ("data", "why"),
    # Explicit names: gzip writes the time into its header.
    ids=["damaged", "followed", "cut", "header only", "xz", "bzip2", "zstd"],
    argvalues=[
        (gzip.compress(b"a\n" * 99)[:-9] + b"garbage garbage", "the gzip data is damaged"),
        (gzip.compress(b"a\n") + b"not gzip", "the gzip data is followed by other data"),
        (gzip.compress(b"a\n")[:-4], "the gzip data is truncated"),
        (b"\x1f\x8b", "the gzip data is truncated"),
        (lzma.compress(b"a\n"), "the input is compressed with xz; only gzip is supported"),
        (bz2.compress(b"a\n"), "the input is compressed with bzip2; only gzip is supported"),
        (b"\x28\xb5\x2f\xfd....", "the input is compressed with zstd; only gzip is supported"),
    ],
)
def test_incomplete_input_reports_the_reason(data: bytes, why: str) -> None:
    assert read(data)[1].startswith(why)


def test_read_error_reports_the_reason() -> None:
    class Failing(io.BytesIO):
        def read1(self, _: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(BrokenInput, match="Input/output error"):
        list(lines_of(Failing(), lambda _: None))


def test_progress_is_reported_in_bytes_of_the_input() -> None:
    sizes: list[int] = []
    packed = gzip.compress(NOISE)
    list(lines_of(io.BytesIO(packed), sizes.append))
    assert sum(sizes) == len(packed)


def pieces_of(data: bytes) -> Iterable[bytes | None]:
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return lines if lines[-1] else lines[:-1]


PACKED = (b"\x1f\x8b", b"BZh", b"PK\x03\x04", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


@given(st.binary(max_size=400).filter(lambda data: not data.startswith(PACKED)))
def test_any_bytes_yield_their_lines(data: bytes) -> None:
    assert read(data) == (list(pieces_of(data)), "")
    assert read(gzip.compress(data)) == (list(pieces_of(data)), "")


@given(st.binary(max_size=300))
def test_any_bytes_after_a_gzip_header_yield_lines_or_a_reason(data: bytes) -> None:
    read(b"\x1f\x8b" + data)
    read(gzip.compress(b"a\nb\n")[:12] + data)
