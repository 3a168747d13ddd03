"""Framing that parsers read differently, in both directions; and exceptions within the edge."""

import contextlib
import re
from unittest.mock import patch

import pytest
from sidegate.edge import exchange
from sidegate.edge.body_framing import ChunkedBody
from sidegate.edge.failures import BadMessage, BadRequestHead
from sidegate.edge.field_names import request_names
from sidegate.edge.pending_request import PendingRequest
from sidegate.edge.request_reader import RequestReader
from sidegate.edge.response_reader import ResponseReader

from tests.decision.instruction_count import instructions
from tests.edge.fuzz_bench import Edge, statuses_in
from tests.raw_client import RawClient, get, request
from tests.recorder import OK, Act, Recorder, eventually
from tests.sidecar import Sidecar

HOST = b"Host: app.test\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
SECOND = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECOND"
DATE = re.compile(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")


# Requests


@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"0" * 4_400 + b"5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 4_400 + b"\r\n\r\nhello",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 16 + b"\r\n\r\nhello",
        b"GET /a RTSP/1.0\r\n" + HOST + b"\r\n",
        b"SOURCE /a ICE/1.0\r\n" + HOST + b"\r\n",
        b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /  HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n",
        b"OPTIONS / HTTP/1.1\r\n" + HOST + b"Max-Forwards: " + b"9" * 5_000 + b", 1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"Connection: " + b"a," * 15_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + (b"Connection: " + b"a," * 11 + b"\r\n") * 10 + b"\r\n",
    ],
    ids=lambda raw: repr(raw[:30]),
)
def test_a_request_that_parsers_read_differently_is_400(raw: bytes, sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(sidecar.port) as client_:
        client_.send(raw)
        reply = client_.reply()
        assert (reply.status, reply.says_close) == (400, True)
        assert client_.ends()
    assert recorder.requests == []


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n000\r\n\r\n",
        b"5\r\nhello\r\n0;last=1\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX-Trailer: t\r\n\r\n",
        b"5;a=b\r\nhello\r\n00;x\r\nX-Trailer: t\r\nX-Other: u\r\n\r\n",
    ],
)
@pytest.mark.parametrize("cut", [0, 1, 3, 7])
def test_a_request_behind_any_chunked_one_is_served(
    body: bytes, cut: int, sidecar: Sidecar, recorder: Recorder
) -> None:
    raw = request("/one", "Transfer-Encoding: chunked", method="POST") + body + request("/two")
    with RawClient(sidecar.port) as client_:
        client_.send(raw[: len(raw) - cut])
        if cut:
            recorder.wait_for(1)
            client_.send(raw[len(raw) - cut :])
        assert [client_.reply().status for _ in range(2)] == [200, 200]
    assert [(each.target, each.body) for each in recorder.requests] == [(b"/one", b"hello"), (b"/two", b"")]


@pytest.mark.parametrize("value", ["close, keep-alive", "keep-alive, close", "Close"])
def test_close_wins_over_keep_alive(value: str, sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(sidecar.port) as client_:
        client_.send(f"GET / HTTP/1.0\r\nConnection: {value}\r\n\r\n".encode())
        assert client_.reply().says_close
        assert client_.ends()


def test_a_websocket_handshake_with_an_empty_body_keeps_its_upgrade(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", Act.ECHO)
    fields = ("Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0")
    with RawClient(sidecar.port) as client_:
        client_.send(request("/ws", *fields))
        assert client_.head().status == 101
        client_.send(b"\x81\x00")
        assert client_.read(2) == b"\x81\x00"


# Names of fields


@pytest.mark.parametrize(
    "line",
    ["X_User_ID: bob", "SCRIPT_NAME: /free", "X_Forwarded_For: 6.6.6.6", "X.User.ID: bob", "Content_Length: 5", "_: a"],
)
def test_a_name_that_an_application_may_read_as_another_is_not_sent_on(
    line: str, sidecar: Sidecar, recorder: Recorder
) -> None:
    for more in ([], ["TE: trailers"]):  # by the plain lane, and by the general one
        assert get(sidecar.port, "/", line, "X-Kept: k", *more).status == 200
    for received in recorder.requests:
        assert line.partition(":")[0].lower() not in [name for name, _ in received.fields]
        assert received.value("x-kept") == b"k"


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        (b"X_A", True),
        (b"SCRIPT_NAME", True),
        (b"X_User_ID", False),
        (b"X_User-ID", False),
        (b"X.User.ID", False),
        (b"X_Forwarded_For", False),
        (b"X_Forwarded_Prefix", False),
        (b"Transfer_Encoding", False),
        (b"Host_", True),
    ],
)
def test_a_setting_passes_underscores_but_for_names_that_fold_onto_others(name: bytes, passes: bool) -> None:
    role = request_names({"x-user-id"}, pass_underscores=True)[name]
    assert (role is None) is passes


def test_a_field_that_a_policy_names_with_underscores_is_sent_on() -> None:
    role = request_names({"x_api_user"})[b"X_Api_User"]
    assert role is not None
    assert role.sent_on


# Answers


@pytest.mark.parametrize(
    "answer",
    [
        b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\rX: y\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 099 No\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 000 No\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 600 No\r\nContent-Length: 5\r\n\r\nhello",
        b"RTSP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/0.9 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length\t: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"0" * 4_400 + b"5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=lambda raw: repr(raw[:45]),
)
def test_an_answer_that_parsers_read_differently_is_502_and_reaches_no_other_request(
    answer: bytes, sidecar: Sidecar, recorder: Recorder
) -> None:
    recorder.always(SECOND)
    recorder.answer(answer)
    with RawClient(sidecar.port) as client_:
        assert client_.get("/first").status == 502
        assert client_.get("/second").body == b"SECOND"


def test_white_space_before_the_colon_of_an_answers_field_is_removed(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 5\r\n\r\nhello")
    reply = get(sidecar.port)
    assert (reply.status, reply.value("X-A")) == (200, "b")


POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"
WITH_MORE = [
    ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
    ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, b""),
    ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, b""),
    ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", 304, b""),
]


@pytest.mark.parametrize("pause", [False, True], ids=["same segment", "later segment"])
@pytest.mark.parametrize("more", [b"5\r\nhello\r\n0\r\n\r\n", POISON, b"x", b"\r\n"])
@pytest.mark.parametrize(("method", "answer", "status", "body"), WITH_MORE)
def test_bytes_behind_a_complete_answer_end_its_connection_and_not_the_answer(
    method: str, answer: bytes, status: int, body: bytes, more: bytes, pause: bool, sidecar: Sidecar, recorder: Recorder
) -> None:
    recorder.always(SECOND)
    recorder.answer(*((answer, 0.01, more) if pause else (answer + more,)))
    with RawClient(sidecar.port) as client_:
        first = client_.get("/first", method=method)
        assert (first.status, first.body, first.complete) == (status, body, True)
        eventually(lambda: not recorder.open, "the end of the connection to the application")
        assert client_.get("/second").body == b"SECOND"


@pytest.mark.slow
def test_a_flood_of_interim_answers_to_a_client_that_does_not_read_is_bounded(
    sidecar: Sidecar, recorder: Recorder
) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: <" + b"a" * 4_000 + b">\r\n\r\n"
    recorder.answer(*[hint * 64] * 500, OK)
    before = sidecar.rss_bytes()
    with RawClient(sidecar.port, receive_buffer_bytes=4096) as client_:
        client_.send(request("/flood"))
        eventually(lambda: not recorder.open, "the end of the connection to the application")
        assert sidecar.rss_bytes() - before < 16 * 2**20
        reply = client_.reply()
        assert (reply.status, len(reply.interim)) == (502, 64)


@pytest.mark.slow
def test_interim_answers_do_not_extend_the_time_without_end(impatient_sidecar: Sidecar, recorder: Recorder) -> None:
    steps: list[bytes | float] = [b"HTTP/1.1 102 Processing\r\n\r\n", 0.2]
    recorder.answer(*steps * 60, OK)
    assert get(impatient_sidecar.port, "/processing").status == 504


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_an_unsolicited_answer_in_the_kernel_reaches_no_request(
    method: str, sidecar: Sidecar, recorder: Recorder
) -> None:
    for _ in range(5):
        assert get(sidecar.port, "/before").status == 200
        recorder.always(SECOND)
        recorder.say(POISON)
        assert get(sidecar.port, "/it", method=method, body=b"b" if method != "GET" else None).body == b"SECOND"


# Date


@pytest.mark.parametrize(
    ("target", "fields", "status"),
    [("/", (), 200), ("/health", (), 200), ("/api/status", (), 200), ("/..", (), 400), ("/", ("Expect: x",), 417)],
)
def test_every_answer_has_one_date(target: str, fields: tuple[str, ...], status: int, sidecar: Sidecar) -> None:
    reply = get(sidecar.port, target, *fields)
    assert reply.status == status
    assert DATE.fullmatch(reply.value("Date"))


def test_a_refusal_has_a_date(sidecar: Sidecar) -> None:
    statuses = set()
    for _ in range(3):
        reply = get(sidecar.port, "/tight/x", "X-User-ID: date")
        assert DATE.fullmatch(reply.value("Date"))
        statuses.add(reply.status)
    assert statuses == {200, 429}


def test_the_applications_date_is_kept(sidecar: Sidecar, recorder: Recorder) -> None:
    date = "Tue, 15 Nov 1994 08:12:31 GMT"
    recorder.answer(f"HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode())
    assert get(sidecar.port).value("Date") == date


# Whatever raises within `data_received`, of either side


class Boom(Exception):
    """An unexpected exception."""


RAISING = [
    (RequestReader, "read_head"),
    (PendingRequest, "start"),
    (PendingRequest, "on_verdict"),
    (exchange.Exchange, "forward"),
    (ResponseReader, "read_head"),
    (exchange.Exchange, "on_answer"),
]


async def test_an_exception_of_the_limiter_is_answered_500_logged_and_recorded_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def decide(*_: object) -> None:
        raise Boom

    edge = Edge(decide=decide)
    await edge.feed([GET, GET])
    assert statuses_in(edge.client.written, ["GET"]) == [500]
    assert [(record.status, record.error) for record in edge.records] == [(500, "internal")]
    assert len([each for each in caplog.records if each.exc_info]) == 1
    assert edge.requests == []
    await edge.close()


@pytest.mark.patches
@pytest.mark.parametrize(("where", "method"), RAISING, ids=lambda value: getattr(value, "__name__", value))
async def test_an_exception_is_answered_500_logged_and_recorded_once(
    where: type, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    edge = Edge()
    with patch.object(where, method, side_effect=Boom):
        await edge.feed([GET])
    assert statuses_in(edge.client.written, ["GET"]) == [500]
    assert b"Connection: close\r\n" in edge.client.written
    assert [(record.status, record.error) for record in edge.records] == [(500, "internal")]
    assert len([each for each in caplog.records if each.exc_info]) == 1
    await edge.close()


@pytest.mark.patches
async def test_an_exception_within_a_body_is_answered_and_recorded_once(caplog: pytest.LogCaptureFixture) -> None:
    edge = Edge()
    head = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\n"
    await edge.feed([head + b"hello"])
    with patch.object(RequestReader, "read_body", side_effect=Boom):
        await edge.feed([b"world"])
    assert statuses_in(edge.client.written, ["POST"]) == [500]
    assert [(record.status, record.error) for record in edge.records] == [(500, "internal")]
    await edge.close()


@pytest.mark.patches
async def test_an_exception_within_the_body_of_an_answer_aborts_it_and_is_recorded_once() -> None:
    edge = Edge([[b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", b"hello"]])
    with patch.object(ResponseReader, "read_body", side_effect=Boom):
        await edge.feed([GET])
    assert edge.client.is_closing()
    assert [(record.status, record.error) for record in edge.records] == [(200, "internal")]
    await edge.close()


# The readers alone: no event loop, no socket


def test_a_reader_needs_no_event_loop() -> None:
    reader = RequestReader(1024)
    head = reader.read_head(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", request_names([])
    )
    assert head is not None
    begun, reader.held = reader.held, b""
    assert reader.read_body(begun) + reader.read_body(b"2\r\nde\r\n0\r\n\r\nGET") == b"abcde"
    assert reader.held == b"GET"


@pytest.mark.parametrize(
    "raw",
    [b"5\r\nhello\r\n0\r\n\r\nrest", b"5;x=y\r\nhello\r\n5\r\nworld\r\n0\r\nX: y\r\n\r\nrest", b"0\r\n\r\nrest"],
)
def test_a_chunked_body_is_the_same_however_it_is_cut(raw: bytes) -> None:
    names = request_names([])
    whole = ChunkedBody(names)
    expected = whole.take(raw), whole.rest
    for first in range(1, len(raw)):
        for second in range(first, len(raw)):
            body, content, rest = ChunkedBody(names), b"", b""
            for piece in (raw[:first], raw[first:second], raw[second:]):
                if body.ended:
                    rest += piece
                elif piece:
                    content += body.take(piece)
                    rest = body.rest
            assert (content, rest) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"x", b"5\nhello", b"5\r\nhelloX", b"0x5\r\n", b"-1\r\n", b" 5\r\n", b"\r\n", b"5;\x00\r\n", b"5;a\n\r\n",
        b"F" * 17 + b"\r\n", b"0\r\nnonsense\r\n", b"0\r\nX : y\r\n", b"0\r\n X: y\r\n", b"0\r\nContent-Length: 5\r\n",
        b"0\r\nHost: a\r\n", b"0\r\nTransfer-Encoding: chunked\r\n", b"5;" + b"a" * 5000, b"0\r\n" + b"X: y\r\n" * 5000,
    ],
    ids=lambda raw: repr(raw[:20]),
)  # fmt: skip
def test_an_invalid_chunked_body_is_refused_at_once(raw: bytes) -> None:
    with pytest.raises(BadMessage):
        ChunkedBody(request_names([])).take(raw)


@pytest.mark.parametrize(
    "lines",
    [
        b"Connection: " + b"a," * 15_000 + b"\r\n",
        b"Connection: " + b",".join(b"n%d" % number for number in range(99)) + b"\r\n",
        b"".join(b"N%d-%b: 1\r\n" % (number, b"y" * 250) for number in range(110)),
        b"TE: " + b"a," * 15_000 + b"\r\n",
        b"Expect: " + b"a," * 15_000 + b"\r\n",
        b"X-Forwarded-For: " + b"1.1.1.1," * 3_700 + b"\r\n",
    ],
    ids=lambda lines: repr(lines[:20]),
)
def test_the_work_for_the_fields_of_a_head_is_bounded(lines: bytes) -> None:
    names = request_names(())
    raw = b"GET / HTTP/1.1\r\n" + HOST + lines + b"\r\n"

    def read() -> None:
        with contextlib.suppress(BadRequestHead):
            _ = RequestReader(32 * 1024).read_head(raw, names)

    read()
    # Some 120 for each field or option: at most 128 and 100 of them.
    assert instructions(read) < 20_000
