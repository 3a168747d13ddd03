"""For any bytes from clients and from the application, the edge does not fail and sends only complete, unambiguous messages.

`make fuzz` searches with the same checks for a given time. Failing inputs are kept in `tests/edge/seeds` and run first in
every test run.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from sidegate.config import Settings, compile_policies
from sidegate.decision.bad_request import BadRequest
from sidegate.decision.request import RequestFacts
from sidegate.edge.failures import BadMessage, BadRequestHead
from sidegate.edge.field_names import request_names, response_names
from sidegate.edge.heads import NO_BODY
from sidegate.edge.request_reader import RequestReader
from sidegate.edge.response_reader import ResponseReader
from sidegate.edge.rewrite import request_head, response_head
from sidegate.edge.tunnel import Frames

from tests.edge.fuzz_bench import Edge, statuses_in, whole_request
from tests.edge.mutations import CHANGES, hostile
from tests.recorder import OK

SEEDS = Path(__file__).parent / "seeds"
# Ends a piece in a seed file.
CUT = b"\n--cut--\n"

Pieces = list[bytes]

# One policy for each place in a request that a key may come from.
SOURCES = ["header:X-User-ID", "cookie:session", "query:key", "path:2", "client_ip"]
POLICIES = compile_policies(
    Settings.model_validate(
        {
            "client_ip": {"trusted_proxies": ["10.0.0.0/8"]},
            "policies": [{"name": f"p{n}", "key": source, "limit": "1/s"} for n, source in enumerate(SOURCES)],
        }
    )
)

SECOND = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECOND"
ANSWERS = [
    OK,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nhello",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-A: b\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x00",
    b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nSet-Cookie: a\r\nContent-Length: 5\r\n\r\nhello",
]


def cut(raw: bytes, cuts: Iterable[int]) -> Pieces:
    """The bytes in pieces that end at these places."""
    ends = sorted({place % (len(raw) + 1) for place in cuts} | {len(raw)})
    return [raw[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < end]


CUTS = st.lists(st.integers(0, 10_000), max_size=6)
REQUESTS = st.builds(
    lambda numbers, noise, cuts: cut(b"".join(hostile(n, random.Random(n)) for n in numbers) + noise, cuts),
    st.lists(st.integers(0, 99_999), max_size=3),
    st.binary(max_size=40),
    CUTS,
)
ANSWER = st.builds(
    lambda raw, changes, noise, cuts: cut(_changed(raw, changes) + noise, cuts),
    st.sampled_from(ANSWERS),
    st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 99)), max_size=3),
    st.one_of(st.just(b""), st.binary(max_size=20)),
    CUTS,
)
NAME = st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}", fullmatch=True)
VALUE = st.from_regex(rb"[\t\x20-\x7e\x80-\xff]{0,30}", fullmatch=True).map(lambda value: value.strip(b" \t"))
FIELDS = st.lists(st.tuples(NAME, VALUE), max_size=6)


def _changed(raw: bytes, changes: Iterable[tuple[Callable[[bytes, random.Random], bytes], int]]) -> bytes:
    for change, seed in changes:
        raw = change(raw, random.Random(seed))
    return raw


# What must hold


def check_client(pieces: Pieces) -> None:
    """A client sends these pieces."""

    async def run() -> None:
        edge = Edge()
        await edge.feed(pieces)
        methods = [record.facts.method for record in edge.records if record.status != 499]
        statuses = statuses_in(edge.client.written, methods)
        # What has reached the application is clear (see whole_request), and each of it has been answered, once.
        assert len(statuses) <= len(edge.records)
        assert len(edge.requests) <= statuses.count(200)
        await edge.close()

    asyncio.run(run())


def check_application(pieces: Pieces) -> None:
    """The application answers the first request with these pieces, and the next one with a valid answer."""

    async def run(end: Pieces) -> None:
        edge = Edge([[*pieces, *end]], default=SECOND)
        await edge.feed([b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n"])
        first = edge.client.written
        statuses = statuses_in(first, ["GET"])
        assert len(statuses) <= 1
        if statuses and not edge.client.is_closing():
            await edge.feed([b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n"])
            second = edge.client.written.removeprefix(first)
            assert second.endswith(b"\r\n\r\nSECOND"), second
        await edge.close()

    asyncio.run(run([]))
    asyncio.run(run([b""]))


def check_heads(fields: list[tuple[bytes, bytes]], target: bytes, named: list[bytes]) -> None:
    """Heads are written from fields that the readers let through."""
    lines = [b"%b: %b" % field for field in (*fields, *((b"Connection", value) for value in named))]
    if b"host" not in [name.lower() for name, _ in fields]:
        lines.append(b"Host: a")
    try:
        raw = b"\r\n".join([b"GET /%b HTTP/1.1" % target, *lines, b"", b""])
        head = RequestReader(32 * 1024).read_head(raw, request_names({"x-user-id"}))
    except BadRequestHead:
        head = None
    if head is not None and head.traits.failure is None and head.framing is NO_BODY:
        written = request_head(head, b"app:1", b"127.0.0.1", b"Content-Length: 0\r\n", trusted=False)
        assert whole_request(written) == len(written)
    reader = ResponseReader(response_names())
    reader.expect(False)
    try:
        answer = reader.read_head(b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"Content-Length: 0", b"", b""]))
    except BadMessage:
        return
    assert answer is not None
    assert statuses_in(response_head(answer, b"Content-Length: 0\r\n"), ["GET"]) == [200]


def check_fields(pieces: Pieces) -> None:
    """The target and the fields, one piece each, from which heads are written and policies read their keys."""
    target, *lines = pieces or [b"/"]
    fields = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    texts = [(name.decode(), value.decode("utf-8", "surrogateescape")) for name, value in fields]
    check_heads(fields, target, [])
    where = "/" + target.decode("utf-8", "surrogateescape")
    facts = RequestFacts("GET", where, CIMultiDictProxy(CIMultiDict(texts)), "10.0.0.1")
    try:
        applied = POLICIES.applying(facts)
    except BadRequest:
        return
    names = [charge.key for _, charge in applied if charge is not None]
    assert len(names) == len(POLICIES.policies)
    assert all(name.isascii() and name.isprintable() and " " not in name for name in names), names


def check_frames(pieces: Pieces) -> None:
    """Where frames end does not depend on how they are cut."""
    whole, parts = Frames(), Frames()
    _ = whole.feed(b"".join(pieces))
    assert sum(parts.feed(piece) for piece in pieces) == len(b"".join(pieces))
    assert whole.between == parts.between


# The usual run


@given(REQUESTS)
def test_whatever_a_client_sends(pieces: Pieces) -> None:
    check_client(pieces)


@given(ANSWER)
def test_whatever_the_application_answers(pieces: Pieces) -> None:
    check_application(pieces)


TARGETS = st.from_regex(rb"[!-\"$-~\x80-\xff]{0,20}", fullmatch=True)
NAMED = st.lists(VALUE, max_size=2)


@given(FIELDS, TARGETS, NAMED)
def test_whatever_a_head_holds(fields: list[tuple[bytes, bytes]], target: bytes, named: list[bytes]) -> None:
    check_heads(fields, target, named)


# Names that mean something, and any other.
NAMES = st.one_of(st.sampled_from([b"Connection", b"Cookie", b"X-User-ID", b"X-Forwarded-For", b"Host", b"TE"]), NAME)
LINES = st.lists(st.builds(lambda name, value: name + b": " + value, NAMES, VALUE), max_size=6)
HEADS = st.builds(lambda target, lines: [target, *lines], TARGETS, LINES)


@given(HEADS)
def test_whatever_fields_say_of_a_caller(pieces: Pieces) -> None:
    check_fields(pieces)


FRAMES = st.builds(cut, st.binary(max_size=400), CUTS)


@given(FRAMES)
def test_whatever_a_websocket_carries(pieces: Pieces) -> None:
    check_frames(pieces)


CHECKS: dict[str, Callable[[Pieces], None]] = {
    "client": check_client,
    "application": check_application,
    "fields": check_fields,
    "frames": check_frames,
}


# Named after the check that they are for: `client-….raw`, `application-….raw`, `fields-….raw`, `frames-….raw`.
@pytest.mark.parametrize("seed", sorted(SEEDS.glob("*.raw")), ids=lambda seed: seed.stem)
def test_fuzzing_findings_stay_fixed(seed: Path) -> None:
    CHECKS[seed.name.partition("-")[0]](seed.read_bytes().removesuffix(CUT).split(CUT))
