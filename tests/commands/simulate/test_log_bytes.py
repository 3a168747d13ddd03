"""From bytes to lines: packed or not, whole or damaged, always in bounded pieces."""

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
    """The lines, and why there are no more; empty where the input ended as it should."""
    lines: list[bytes | None] = []
    try:
        for line in lines_of(io.BytesIO(data), lambda _: None):
            lines.append(line)  # noqa: PERF402  (those before an exception are wanted)
    except BrokenInput as error:
        return lines, str(error)
    return lines, ""


class Trickle(io.RawIOBase):
    """A pipe that gives a byte at a time."""

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


def test_several_gzip_members_and_padding_are_one_log() -> None:
    assert read(gzip.compress(b"a\nb") + gzip.compress(b"c\n") + b"\0" * 512) == ([b"a", b"bc"], "")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_pipe_that_trickles_gives_the_same_lines(pack: Callable[[bytes], bytes]) -> None:
    data = pack(b"first\nsecond\n")
    assert list(lines_of(Trickle(data), lambda _: None)) == [b"first", b"second"]  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [LONGEST_LINE_BYTES + 1, CHUNK_BYTES, 5 * CHUNK_BYTES])
@pytest.mark.parametrize("end", [b"", b"\n", b"\nafter\n"])
def test_a_huge_line_is_one_none_and_the_next_line_is_whole(length: int, end: bytes) -> None:
    expected: list[bytes | None] = [b"before", None]
    if end == b"\nafter\n":
        expected.append(b"after")
    assert read(b"before\n" + b"x" * length + end) == (expected, "")


def test_the_longest_line_that_is_taken_is_taken() -> None:
    assert read(b"x" * LONGEST_LINE_BYTES + b"\n") == ([b"x" * LONGEST_LINE_BYTES], "")


def test_a_gzip_bomb_is_unpacked_in_pieces() -> None:
    assert read(gzip.compress(b"\0" * 50_000_000)) == ([None], "")


def test_a_cut_gzip_gives_the_lines_before_the_cut_and_says_so() -> None:
    whole = gzip.compress(b"".join(b"%d\n" % number for number in range(200_000)))
    lines, why = read(whole[: len(whole) // 2])
    assert why == "the gzip data is cut off"
    assert lines[:3] == [b"0", b"1", b"2"]
    assert 50_000 < len(lines) < 200_000
    assert lines == [b"%d" % number for number in range(len(lines))]


@pytest.mark.parametrize(
    ("data", "why"),
    # Names of their own: gzip writes the time into its header.
    ids=["damaged", "followed", "cut", "header only", "xz", "bzip2", "zstd"],
    argvalues=[
        (gzip.compress(b"a\n" * 99)[:-9] + b"garbage garbage", "the gzip data is damaged"),
        (gzip.compress(b"a\n") + b"not gzip", "something that is not gzip follows the gzip data"),
        (gzip.compress(b"a\n")[:-4], "the gzip data is cut off"),
        (b"\x1f\x8b", "the gzip data is cut off"),
        (lzma.compress(b"a\n"), "it is packed with xz; only gzip is read here"),
        (bz2.compress(b"a\n"), "it is packed with bzip2; only gzip is read here"),
        (b"\x28\xb5\x2f\xfd....", "it is packed with zstd; only gzip is read here"),
    ],
)
def test_what_cannot_be_read_to_its_end_says_why(data: bytes, why: str) -> None:
    assert read(data)[1].startswith(why)


def test_a_read_error_says_why() -> None:
    class Failing(io.BytesIO):
        def read1(self, _: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(BrokenInput, match="Input/output error"):
        list(lines_of(Failing(), lambda _: None))


def test_what_was_read_is_told_in_bytes_of_the_input() -> None:
    told: list[int] = []
    packed = gzip.compress(NOISE)
    list(lines_of(io.BytesIO(packed), told.append))
    assert sum(told) == len(packed)


def pieces_of(data: bytes) -> Iterable[bytes | None]:
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return lines if lines[-1] else lines[:-1]


PACKED = (b"\x1f\x8b", b"BZh", b"PK\x03\x04", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


@given(st.binary(max_size=400).filter(lambda data: not data.startswith(PACKED)))
def test_any_bytes_give_their_lines(data: bytes) -> None:
    assert read(data) == (list(pieces_of(data)), "")
    assert read(gzip.compress(data)) == (list(pieces_of(data)), "")


@given(st.binary(max_size=300))
def test_any_bytes_after_a_gzip_header_give_lines_or_a_reason(data: bytes) -> None:
    read(b"\x1f\x8b" + data)
    read(gzip.compress(b"a\nb\n")[:12] + data)
