"""Invalid answers of the application. After each, a second request on the same client connection and a third on a new one
get their own answers: no bytes of an invalid answer remain in an upstream connection.
"""

from dataclasses import dataclass

import pytest

from tests.raw_client import Broken, RawClient, Reply, get, request
from tests.recorder import OK, Act, ReadBody, Recorder, Step, eventually
from tests.sidecar import Sidecar

SECOND = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECOND"
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Case:
    """`body` is the complete body that the client must receive; None if it must not receive a complete answer."""

    id: str
    title: str
    steps: tuple[Step, ...]
    status: int
    body: bytes | None = b"hello"
    method: str = "GET"


def answer(body: bytes = b"hello", *fields: bytes, status: bytes = b"200 OK", length: int | None = None) -> bytes:
    lines = [b"HTTP/1.1 " + status, *fields, b"Content-Length: %d" % (len(body) if length is None else length)]
    return b"\r\n".join([*lines, b"", body])


BAD_GATEWAY = 502
CASES = [
    Case("RA01", "a second answer behind the first", (answer() + POISON,), 200),
    Case("RA01b", "a second answer behind a chunked one", (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + POISON,), 200),
    Case(
        "RA01c",
        "a chunked second answer behind a chunked one",
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + CHUNKED + b"6\r\nPOISON\r\n0\r\n\r\n",),
        200,
    ),
    Case(
        "RA01d",
        "half a second answer behind a chunked one, that looks like its end",
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + answer(b"POISON\r\n0\r\n\r\n", length=44),),
        200,
    ),
    Case("RA01f", "half a second answer", (answer() + POISON[:30],), 200),
    Case("RA01g", "a blank line behind the answer", (answer() + b"\r\n",), 200),
    Case("RA01h", "a second answer behind 204", (b"HTTP/1.1 204 No Content\r\n\r\n" + POISON,), 204, b""),
    Case("RA01i", "a second answer behind 304", (b"HTTP/1.1 304 Not Modified\r\n\r\n" + POISON,), 304, b""),
    Case("RA01j", "a second answer behind one to HEAD", (answer(b"", length=5) + POISON,), 200, b"", "HEAD"),
    Case("RA02", "two different lengths", (answer(b"hello!", b"Content-Length: 5"),), BAD_GATEWAY),
    Case(
        "RA02b", "a length that is no number", (b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",), BAD_GATEWAY
    ),
    Case(
        "RA03",
        "a length and chunked",
        (answer(b"5\r\nhello\r\n0\r\n\r\n", b"Transfer-Encoding: chunked", length=3),),
        BAD_GATEWAY,
    ),
    Case("RA04", "the end, before any byte", (Act.CLOSE,), BAD_GATEWAY),
    Case("RA04b", "a reset, before any byte", (Act.RESET,), BAD_GATEWAY),
    Case("RA05", "the end, within the head", (b"HTTP/1.1 200 OK\r\nContent-Le", Act.CLOSE), BAD_GATEWAY),
    Case("RA06", "the end, within a counted body", (answer(length=100), Act.CLOSE), 200, None),
    Case("RA06b", "a reset, within a counted body", (answer(length=100), 0.02, Act.RESET), 200, None),
    Case("RA07", "the end, before the last chunk", (CHUNKED + b"5\r\nhello\r\n", Act.CLOSE), 200, None),
    Case("RA07b", "the end, within the last chunk", (CHUNKED + b"5\r\nhello\r\n0\r\n", Act.CLOSE), 200, None),
    Case("RA07c", "a bad chunk size", (CHUNKED + b"5\r\nhello\r\n", 0.02, b"xyz\r\n"), 200, None),
    Case("RA07d", "trailers", (CHUNKED + b"5\r\nhello\r\n0\r\nX-Leak: s\r\n\r\n",), 200),
    Case("RA08", "early hints", (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer(),), 200),
    Case("RA08b", "early hints in a segment of their own", (b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.02, answer()), 200),
    Case("RA08c", "100 without an expectation", (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(),), 200),
    Case(
        "RA09",
        "101 without an upgrade request",
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",),
        BAD_GATEWAY,
    ),
    Case("RA10", "204 with a body", (answer(status=b"204 No Content"),), 204, b""),
    Case("RA11", "a body to HEAD", (answer(),), 200, b"", "HEAD"),
    Case("RA11b", "a chunked body to HEAD", (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n",), 200, b"", "HEAD"),
    Case("RA12", "HTTP/1.0, ended by the connection", (b"HTTP/1.0 200 OK\r\n\r\nhello", Act.CLOSE), 200),
    Case(
        "RA12b", "HTTP/1.1 without length, ended by the connection", (b"HTTP/1.1 200 OK\r\n\r\nhello", Act.CLOSE), 200
    ),
    Case("RA12c", "HTTP/1.0 with a length", (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",), 200),
    Case("RA13", "HTTP/0.9", (b"hello world\n", Act.CLOSE), BAD_GATEWAY),
    Case("RA13b", "another protocol", (b"SSH-2.0-x\r\n",), BAD_GATEWAY),
    Case("RA13c", "a version that is too high", (b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",), BAD_GATEWAY),
    Case("RA13d", "a status of two digits", (b"HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello",), BAD_GATEWAY),
    Case("RA14", "NUL in a field", (answer(b"hello", b"X-A: a\x00b"),), BAD_GATEWAY),
    Case("RA14b", "a bare carriage return in a field", (answer(b"hello", b"X-A: a\rX-B: b"),), BAD_GATEWAY),
    Case("RA15", "a field of 200 KiB", (answer(b"hello", b"X-A: " + b"a" * 204_800),), BAD_GATEWAY),
    Case("RA15b", "300 fields", (answer(b"hello", *(b"X-%d: a" % n for n in range(300))),), BAD_GATEWAY),
    Case("RA19", "an unknown transfer coding", (answer(b"hello", b"Transfer-Encoding: gzip"),), BAD_GATEWAY),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.id} {case.title}")
def test_a_bad_answer_does_not_affect_other_requests(case: Case, sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.always(SECOND)
    recorder.answer(*case.steps)
    with RawClient(sidecar.port) as client:
        first = client.get("/first", method=case.method)
        assert first.status == case.status
        if case.status == BAD_GATEWAY:
            assert first.value("Content-Type") == "application/problem+json"
        elif case.body is None:
            assert not first.complete
        else:
            assert (first.body, first.complete) == (case.body, True)
        if case.body is None or first.says_close:
            assert client.ends()
        else:
            assert client.get("/second").body == b"SECOND"
    assert get(sidecar.port, "/third").body == b"SECOND"
    assert [received.target for received in recorder.requests].count(b"/first") == 1


@pytest.mark.parametrize("act", [Act.CLOSE, Act.RESET])
@pytest.mark.parametrize(
    ("method", "sent"), [("GET", 2), ("HEAD", 2), ("PUT", 2), ("DELETE", 2), ("POST", 1), ("PATCH", 1)]
)
def test_only_repeatable_requests_are_sent_again_and_only_once(
    method: str, sent: int, act: Act, sidecar: Sidecar, recorder: Recorder
) -> None:
    body = b"hello" if method in ("PUT", "POST", "PATCH") else None
    with RawClient(sidecar.port) as client:
        assert client.get("/before").status == 200
        for _ in range(sent):
            recorder.answer(act)
        reply = client.get("/it", method=method, body=body)
        assert (reply.status, reply.says_close) == (502, False)
        assert client.get("/after").status == 200
    assert [received.target for received in recorder.requests] == [b"/before", *[b"/it"] * sent, b"/after"]


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_repeatable_request_succeeds_if_its_reused_connection_is_closed(
    method: str, sidecar: Sidecar, recorder: Recorder
) -> None:
    body = b"hello" if method == "PUT" else None
    with RawClient(sidecar.port) as client:
        assert client.get("/before").status == 200
        recorder.answer(Act.CLOSE)
        assert client.get("/it", method=method, body=body).status == 200
    _, once, twice = recorder.requests
    assert (once.target, once.body, once.connection == twice.connection) == (twice.target, twice.body, False)


def test_a_request_on_a_fresh_connection_is_never_sent_again(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(Act.CLOSE)
    assert get(sidecar.port).status == 502
    assert len(recorder.requests) == 1


def test_a_request_whose_answer_had_begun_is_never_sent_again(sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(sidecar.port) as client:
        assert client.get("/before").status == 200
        recorder.answer(b"HTTP/1.1 2", Act.CLOSE)
        assert client.get("/it").status == 502
    assert len(recorder.requests) == 2


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("unasked", [POISON, b"\r\n", b"x"])
def test_unsolicited_bytes_on_an_idle_connection_reach_no_request(
    unasked: bytes, method: str, sidecar: Sidecar, recorder: Recorder
) -> None:
    assert get(sidecar.port, "/before").status == 200
    recorder.always(SECOND)
    recorder.say(unasked)
    assert get(sidecar.port, "/it", method=method, body=b"hello").body == b"SECOND"
    before, it = recorder.requests
    assert before.connection != it.connection


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_idle_connection_that_the_application_closed_is_not_used(
    method: str, sidecar: Sidecar, recorder: Recorder
) -> None:
    assert get(sidecar.port, "/before").status == 200
    recorder.close_all()
    assert get(sidecar.port, "/it", method=method, body=b"hello").status == 200
    assert [received.target for received in recorder.requests] == [b"/before", b"/it"]


def test_trailers_of_an_answer_never_become_fields_of_the_next(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(CHUNKED + b"5\r\nhello\r\n0\r\nX-Leak: s\r\n\r\n")
    with RawClient(sidecar.port) as client:
        assert client.get("/first").complete
        assert client.get("/second").values("X-Leak") == []
    first, second = recorder.requests
    assert first.connection == second.connection


def test_early_hints_arrive_before_the_answer(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-B\r\nX-B: b\r\n\r\n" + OK)
    (hints,) = get(sidecar.port).interim
    assert (hints.status, hints.value("Link"), hints.values("X-B")) == (103, "</a>", [])


def test_an_http_1_0_client_gets_no_interim_answer(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)
    with RawClient(sidecar.port) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.reply().interim == []


def test_cookies_and_repeated_fields_keep_their_number_and_order(sidecar: Sidecar, recorder: Recorder) -> None:
    fields = (b"Set-Cookie: a=1", b"X-A: 1", b"set-cookie: b=2, c", b"X-A: 2", b"Set-Cookie: a=1")
    recorder.answer(answer(b"hello", *fields))
    reply = get(sidecar.port)
    ours = [(name, value) for name, value in reply.fields if name.lower() in ("set-cookie", "x-a")]
    assert ours == [("Set-Cookie", "a=1"), ("X-A", "1"), ("set-cookie", "b=2, c"), ("X-A", "2"), ("Set-Cookie", "a=1")]


def test_fields_named_by_connection_in_an_answer_are_not_forwarded(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(answer(b"hello", b"Connection: X-Secret, keep-alive", b"X-Secret: s", b"Keep-Alive: timeout=5"))
    reply = get(sidecar.port)
    assert (reply.values("X-Secret"), reply.values("Keep-Alive"), reply.values("Connection")) == ([], [], [])


def test_rate_limit_fields_of_the_application_are_kept_and_ours_are_appended(
    sidecar: Sidecar, recorder: Recorder
) -> None:
    recorder.answer(answer(b"hello", b'RateLimit: "app";r=1;t=2'))
    assert get(sidecar.port).values("RateLimit") == ['"app";r=1;t=2', '"roomy";r=99999;t=864']


def test_a_folded_field_of_the_application_arrives_on_one_line(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(answer(b"hello", b"X-A: b\r\n c"))
    reply = get(sidecar.port)
    assert reply.status == 502 or "\n" not in reply.value("X-A")


def test_an_early_413_reaches_a_client_that_is_still_sending(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(answer(b"hello", b"Connection: close", status=b"413 Too Large"), 0.1, Act.CLOSE, body=ReadBody.NONE)
    with RawClient(sidecar.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 300000\r\n\r\n" + bytes(1_000))
        recorder.wait_for(1)
        client.send(bytes(200_000))
        reply = client.reply()
    assert (reply.status, reply.body, reply.complete, reply.says_close) == (413, b"hello", True, True)


@pytest.mark.parametrize(
    "steps",
    [(answer(length=100), Act.CLOSE), (CHUNKED + b"5\r\nhello\r\n", Act.CLOSE), (answer(length=100), 0.02, Act.RESET)],
    ids=["counted", "chunked", "reset"],
)
def test_an_answer_that_breaks_off_never_looks_complete_to_an_http_1_0_client(
    steps: tuple[Step, ...], sidecar: Sidecar, recorder: Recorder
) -> None:
    recorder.answer(*steps)
    with RawClient(sidecar.port) as client:
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        reply = read_whole(client)
    assert reply is None or not reply.complete


def read_whole(client: RawClient) -> Reply | None:
    try:
        return client.reply()
    except Broken:
        return None


def test_a_connection_that_is_closed_as_soon_as_it_is_made_is_a_bad_gateway(
    sidecar: Sidecar, recorder: Recorder
) -> None:
    recorder.always(Act.RESET, body=ReadBody.NONE)
    for _ in range(5):
        assert get(sidecar.port, method="POST", body=b"hello").status == 502


def test_no_connection_is_left_behind_by_bad_answers(sidecar: Sidecar, recorder: Recorder) -> None:
    for steps in [(answer() + POISON,), (answer(length=100), Act.CLOSE), (b"HTTP/1.0 200 OK\r\n\r\nhello", Act.CLOSE)]:
        recorder.answer(*steps)
        with RawClient(sidecar.port) as client:
            client.send(request())
            client.reply()
    eventually(lambda: not recorder.open, "the end of all connections to the application")
