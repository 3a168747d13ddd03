"""The plain lane is a strict subset of the general one: llhttp accepts whatever it accepts, with the same method, target and
fields.

Heads are drawn from the plain grammar, which both lanes must accept with equal results, and from mutations of it, which
the plain lane may refuse but must not read differently.
"""

import random
from typing import Any

import pytest
from aiohttp.http import HttpRequestParser
from hypothesis import example, given
from hypothesis import strategies as st
from sidegate.edge.body_framing import ChunkedBody
from sidegate.edge.engine import _NO_FLOW, EngineError, RequestEngine
from sidegate.edge.failures import BadMessage, BadRequestHead
from sidegate.edge.field_names import LONGEST_NAME_BYTES, MOST_NAMES, FieldNames, request_names, response_names
from sidegate.edge.heads import NO_BODY, RequestHead, ResponseHead
from sidegate.edge.plain_head import plain_request, plain_response, valid_hosts
from sidegate.edge.request_reader import RequestReader
from sidegate.edge.response_reader import ResponseReader

from tests.edge.mutations import CHANGES

pytestmark = pytest.mark.slow

NAMES = request_names({"x-user-id"}, "X-Request-ID")
ANSWER_NAMES = response_names()

TOKEN = st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}", fullmatch=True)
KNOWN = st.sampled_from(
    [b"X-User-ID", b"x-user-id", b"X-Forwarded-For", b"Cookie", b"X_User_ID", b"X-Request-ID", b"Via"]
)
VALUE = st.from_regex(rb"[!-~\x80-\xff](?:[\t -~\x80-\xff]{0,30}[!-~\x80-\xff])?", fullmatch=True)
LINES = st.lists(st.builds(lambda name, value: b"%b: %b" % (name, value), st.one_of(KNOWN, TOKEN), VALUE), max_size=8)
TARGET = st.from_regex(rb"/[!-\"$-~]{0,30}", fullmatch=True)
METHOD = st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"])
HOST = st.sampled_from([b"app.test", b"a:80", b"[::1]:80", b"a_b-c~"])


def request_of(method: bytes, target: bytes, host: bytes, lines: list[bytes], at: int) -> bytes:
    fields = [*lines[:at], b"Host: " + host, *lines[at:]]
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method, target), *fields, b"", b""])


def answer_of(status: int, lines: list[bytes], body: bytes, at: int) -> bytes:
    fields = [*lines[:at], b"Content-Length: %d" % len(body), *lines[at:]]
    return b"\r\n".join([b"HTTP/1.1 %d Some Reason" % status, *fields, b"", body])


REQUESTS = st.builds(request_of, METHOD, TARGET, HOST, LINES, st.integers(0, 8))
ANSWERS = st.builds(answer_of, st.integers(200, 599), LINES, st.binary(max_size=30), st.integers(0, 8))
BYTES = [
    b"\x00",
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b":",
    b": ",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\r\n\r\n",
    b"#",
    b"\x0b",
]
CHANGE = st.tuples(st.integers(0, 2000), st.integers(0, 3), st.sampled_from([b"", *BYTES]))


def changed(raw: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for at, removed, put in changes:
        place = at % (len(raw) + 1)
        raw = raw[:place] + put + raw[place + removed :]
    return raw


def by_llhttp(raw: bytes) -> RequestHead | None:
    """The request as the general lane reads it; None if it is refused or incomplete."""
    reader = RequestReader(32 * 1024)
    try:
        head = reader._general_head(raw, NAMES)
    except BadRequestHead:
        return None
    return head if head is not None and not reader.held else None


def same_request(plain: RequestHead, general: RequestHead) -> bool:
    """Whether two heads are equal, apart from white space at the ends of values (RFC 9110 §5.5)."""
    alike = all(
        getattr(plain, name) == getattr(general, name)
        for name in ("method", "target", "special", "raw", "framing", "traits")
    )
    return alike and trimmed(plain.lines) == trimmed(general.lines)


def trimmed(lines: list[bytes]) -> list[bytes]:
    parts = (line.partition(b": ") for line in lines[1:])
    return [lines[0], *(name + b": " + value.strip(b" \t") for name, _, value in parts)]


@given(REQUESTS)
def test_both_lanes_read_a_plain_request_alike(raw: bytes) -> None:
    plain, general = plain_request(raw, NAMES), by_llhttp(raw)
    assert general is not None
    if plain is None:  # a name that concerns one hop, drawn by chance
        assert any(NAMES[line.partition(b":")[0]] for line in raw.split(b"\r\n")[1:] if line)
    else:
        assert same_request(plain, general)


@given(REQUESTS, st.lists(CHANGE, min_size=1, max_size=3))
@example(b"GET / HTTP/1.1\r\nHost: a\r\nX-A\r\n\r\n", [])
@example(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n", [])
@example(b"GET / HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n", [])
@example(b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", [])
@example(b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", [])
def test_llhttp_reads_every_plain_request_alike(raw: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    raw = changed(raw, changes)
    plain = plain_request(raw, NAMES)
    if plain is not None:
        general = by_llhttp(raw)
        assert general is not None, raw
        assert same_request(plain, general)
        assert plain.traits.failure is None


@given(REQUESTS, st.sampled_from(CHANGES), st.integers(0, 99))
def test_llhttp_reads_every_plain_hostile_request_alike(raw: bytes, change: object, seed: int) -> None:
    assert callable(change)
    test = change(raw, random.Random(seed))
    plain = plain_request(test, NAMES)
    if plain is not None:
        general = by_llhttp(test)
        assert general is not None, test
        assert same_request(plain, general)


def answer_by_llhttp(raw: bytes) -> tuple[ResponseHead, bytes] | None:
    """The answer as the general lane reads it; None if it is invalid or incomplete."""
    reader = ResponseReader(ANSWER_NAMES)
    reader.expect(False)
    try:
        head = reader._general_head(raw)
    except BadMessage:
        return None
    return (head, reader.content) if head is not None and reader.reusable else None


@given(ANSWERS, st.lists(CHANGE, max_size=3))
def test_llhttp_reads_every_plain_answer_alike(raw: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    raw = changed(raw, changes)
    plain = plain_response(raw, ANSWER_NAMES)
    if plain is not None:
        general = answer_by_llhttp(raw)
        assert general is not None, raw
        for name in ("status", "framing", "dated", "persistent"):
            assert getattr(plain[0], name) == getattr(general[0], name)
        assert trimmed(plain[0].lines) == trimmed(general[0].lines)
        assert plain[1] == general[1]


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /a?b=c%20 HTTP/1.1\r\nHost: app.test\r\nX-User-ID: alice\r\nAccept: */*\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: [::1]:80\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n\r\n",
    ],
)
def test_usual_requests_take_the_plain_lane(raw: bytes) -> None:
    head = plain_request(raw, NAMES)
    assert head is not None
    assert (head.framing, head.traits.persistent) == (NO_BODY, True)


@pytest.mark.parametrize(
    "fields",
    [
        b"Connection: close",
        b"Content-Length: 0",
        b"Transfer-Encoding: chunked",
        b"Upgrade: websocket",
        b"Expect: 100-continue",
        b"TE: trailers",
        b"Trailer: X",
        b"Max-Forwards: 1",
        b"X-A:b",
        b"X A: b",
        b"X-A",
        b": b",
        b"",
    ],
)
def test_other_requests_take_the_general_lane(fields: bytes) -> None:
    assert plain_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n\r\n", NAMES) is None


@given(st.binary(max_size=60), st.lists(st.integers(1, 60), max_size=6))
def test_llhttp_reads_accepted_chunked_bodies_alike(noise: bytes, sizes: list[int]) -> None:
    """Compares our chunked grammar with aiohttp's parser on a whole message."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (size, bytes(size)) for size in sizes) + noise + b"0\r\n\r\n"
    body = ChunkedBody(NAMES)
    try:
        content = body.take(chunks)
    except BadMessage:
        return
    if not body.ended or body.rest:
        return
    unused: Any = _NO_FLOW
    parser = HttpRequestParser(unused, unused, 2**20)
    ((_, payload),) = parser.feed_data(head + chunks)[0]
    assert payload.read_nowait() == content


# Caches


def test_the_table_of_names_is_bounded_in_entries_and_bytes() -> None:
    names: FieldNames = request_names([])
    for number in range(3 * MOST_NAMES):
        assert names[b"X-%d" % number] is None
        assert names[b"X" * (LONGEST_NAME_BYTES + 1 + number % 7)] is None
    assert len(names) <= MOST_NAMES
    assert max(map(len, names)) <= LONGEST_NAME_BYTES


def test_the_table_of_hosts_is_bounded_in_entries_and_bytes() -> None:
    for number in range(3000):
        assert valid_hosts[b"host-%d" % number]
        assert valid_hosts[b"h" * (300 + number % 5)]
    assert len(valid_hosts) <= 1024
    assert max(map(len, valid_hosts)) <= 255


def test_an_engine_error_distinguishes_a_long_line_from_an_invalid_one() -> None:
    with pytest.raises(EngineError) as raised:
        RequestEngine(1024).parse(b"nonsense\r\n\r\n")
    assert not raised.value.too_long
