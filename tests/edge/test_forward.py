"""Requests and answers through a real sidecar: complete, streamed, early, late, aborted."""

import os
import threading
import time
from collections.abc import Iterator

import pytest

from tests.raw_client import RawClient, get, request
from tests.recorder import OK, Act, ReadBody, Recorder, Step, Zeros, eventually
from tests.servers import StoreServer, free_port
from tests.sidecar import Sidecar, configuration, spent

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "PROPFIND", "REPORT", "PURGE"]
MIB = 2**20
# What issue and documentation promise: the memory of a sidecar does not depend on the size of a body.
LARGEST_RSS_BYTES = 120 * MIB
LARGE_BYTES = 1024 * MIB if os.environ.get("SIDEGATE_TEST_FULL") else 192 * MIB

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked_post(body: bytes, *fields: str) -> bytes:
    return request("/", "Transfer-Encoding: chunked", *fields, method="POST") + body


# Whole messages


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_passed_on(method: str, sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(sidecar.port) as client:
        reply = client.get("/x?y=%20z", method=method)
        assert (reply.status, reply.complete, reply.body) == (200, True, b"" if method == "HEAD" else b"ok")
        assert client.get("/next").status == 200
    assert (recorder.requests[0].method, recorder.requests[0].target) == (method, b"/x?y=%20z")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
@pytest.mark.parametrize("size", [0, 1, 1_000, 300_000])
def test_a_body_arrives_as_it_was_sent(method: str, size: int, sidecar: Sidecar, recorder: Recorder) -> None:
    body = os.urandom(size)
    with RawClient(sidecar.port) as client:
        assert client.get("/", method=method, body=body).status == 200
        assert client.get("/next").status == 200
    received = recorder.requests[0]
    assert (received.body, received.complete, received.value("content-length")) == (body, True, b"%d" % size)


def test_a_request_without_body_is_passed_on_without_framing_fields(sidecar: Sidecar, recorder: Recorder) -> None:
    get(sidecar.port, method="POST")
    received = recorder.only()
    assert received.values("content-length") + received.values("transfer-encoding") == []


def test_a_small_chunked_body_that_has_arrived_is_passed_on_with_its_length(
    sidecar: Sidecar, recorder: Recorder
) -> None:
    with RawClient(sidecar.port) as client:
        client.send(chunked_post(b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\n\r\n"))
        assert client.reply().status == 200
    received = recorder.only()
    assert (received.body, received.value("content-length")) == (b"hello world", b"11")


def test_a_chunked_body_is_passed_on_while_it_arrives(sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(sidecar.port) as client:
        client.send(chunked_post(b"5\r\nhello\r\n"))
        (received,) = recorder.wait_for(1)
        eventually(lambda: received.body == b"hello", "the first chunk at the application")
        client.send(b"6\r\n world\r\n")
        eventually(lambda: received.body == b"hello world", "the second chunk at the application")
        client.send(b"0\r\n\r\n")
        assert client.reply().status == 200
        assert client.get("/next").status == 200
    assert received.value("transfer-encoding") == b"chunked"


def test_a_counted_body_is_passed_on_while_it_arrives(sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(sidecar.port) as client:
        client.send(request("/", method="POST", body=b"hello world")[:-6])
        (received,) = recorder.wait_for(1)
        eventually(lambda: received.body == b"hello", "the first half at the application")
        client.send(b" world")
        assert client.reply().status == 200
    assert received.value("content-length") == b"11"


def test_a_counted_answer_arrives_as_it_was_sent(sidecar: Sidecar, recorder: Recorder) -> None:
    body = os.urandom(300_000)
    recorder.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + body[:1_000], 0.01, body[1_000:])
    reply = get(sidecar.port)
    assert (reply.body == body, reply.value("Content-Length")) == (True, "300000")


def test_a_chunked_answer_is_passed_on_while_it_arrives(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(CHUNKED_HEAD + b"5\r\nhello\r\n", Act.HOLD, b"6\r\n world\r\n0\r\n\r\n")
    with RawClient(sidecar.port) as client:
        client.send(request())
        assert client.head().value("Transfer-Encoding") == "chunked"
        assert client.read(10) == b"5\r\nhello\r\n"
        recorder.release()
        assert client.read(16) == b"6\r\n world\r\n0\r\n\r\n"
        assert client.get("/next").status == 200


def test_a_head_alone_is_passed_on_before_its_body(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", Act.HOLD, b"ok")
    with RawClient(sidecar.port) as client:
        client.send(request())
        assert client.head().status == 200
        recorder.release()
        assert client.read(2) == b"ok"


@pytest.mark.parametrize(
    ("method", "answer", "length"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", ["1234"]),
        ("HEAD", CHUNKED_HEAD, []),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", []),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n', []),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\n\r\n", ["1234"]),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ["0"]),
    ],
    ids=["HEAD", "HEAD, chunked", "204", "304", "304 with a length", "empty"],
)
def test_an_answer_without_body_leaves_both_connections_usable(
    method: str, answer: bytes, length: list[str], sidecar: Sidecar, recorder: Recorder
) -> None:
    recorder.answer(answer)
    with RawClient(sidecar.port) as client:
        reply = client.get("/", method=method)
        assert (reply.complete, reply.body, reply.values("Content-Length")) == (True, b"", length)
        assert client.get("/next").body == b"ok"
    first, second = recorder.requests
    assert first.connection == second.connection


def test_a_custom_reason_phrase_is_forwarded(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.1 299 Fine By Me\r\nContent-Length: 0\r\n\r\n")
    reply = get(sidecar.port)
    assert (reply.status, reply.reason) == (299, "Fine By Me")


def test_field_values_outside_ascii_are_forwarded_unchanged(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.1 200 OK\r\nX-B: gr\xfc\xdfe\r\nContent-Length: 0\r\n\r\n")
    assert get(sidecar.port, "/", "X-A: gr\xfc\xdfe").value("X-B") == "gr\xfc\xdfe"
    assert recorder.only().value("x-a") == b"gr\xfc\xdfe"


def test_repeated_request_fields_keep_their_number_and_order(sidecar: Sidecar, recorder: Recorder) -> None:
    get(sidecar.port, "/", "X-A: 1", "Cookie: a=1", "x-a: 2", "Cookie: b=2")
    assert recorder.only().values("x-a") == [b"1", b"2"]
    assert recorder.only().values("cookie") == [b"a=1", b"b=2"]


# How far a request may go


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS"])
@pytest.mark.parametrize(("hops", "arrives"), [("1", b"0"), ("10", b"9"), ("007", b"6"), ("9" * 40, b"999999998")])
def test_max_forwards_is_decremented(
    method: str, hops: str, arrives: bytes, sidecar: Sidecar, recorder: Recorder
) -> None:
    assert get(sidecar.port, "/", f"Max-Forwards: {hops}", method=method).status == 200
    assert recorder.only().value("max-forwards") == arrives


def test_max_forwards_of_other_methods_is_forwarded_unchanged(sidecar: Sidecar, recorder: Recorder) -> None:
    assert get(sidecar.port, "/", "Max-Forwards: 0").status == 200
    assert recorder.only().value("max-forwards") == b"0"


def test_a_trace_with_max_forwards_0_is_answered_without_its_secrets(
    sidecar: Sidecar, recorder: Recorder, store_server: StoreServer
) -> None:
    fields = ("Max-Forwards: 0", "Via: 1.1 first", "X-A: gr\xfc\xdfe", "Cookie: a=1", "Authorization: Basic eDp5")
    with RawClient(sidecar.port) as client:
        reply = client.get("/far?x", *fields, method="TRACE")
        assert (reply.status, reply.value("Content-Type")) == (200, "message/http")
        kept = request("/far?x", *fields[:3], method="TRACE")
        assert (reply.body, reply.values("RateLimit")) == (kept, ['"roomy";r=99999;t=864'])
        assert client.get().status == 200
    assert [received.target for received in recorder.requests] == [b"/"]
    assert spent(store_server) == {"client_ip=127.0.0.1": 2}


def test_options_with_max_forwards_0_are_answered_by_the_sidecar(sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(sidecar.port) as client:
        client.send(request("*", "Max-Forwards: 0", method="OPTIONS"))
        reply = client.reply()
        assert (reply.status, reply.body, reply.value("Content-Length")) == (200, b"", "0")
    assert recorder.requests == []


@pytest.mark.parametrize("value", ["-1", "1, 2", "x", "1.0", "+1", "", "\xb2"])
def test_max_forwards_that_is_no_number_is_a_bad_request(value: str, sidecar: Sidecar, recorder: Recorder) -> None:
    assert get(sidecar.port, "/", f"Max-Forwards: {value}", method="OPTIONS").status == 400
    assert get(sidecar.port, "/", "Max-Forwards: 1", "Max-Forwards: 1", method="TRACE").status == 400
    assert recorder.requests == []


# Connections


def test_connections_are_used_again_on_both_sides(sidecar: Sidecar, recorder: Recorder) -> None:
    accepted = recorder.accepted
    with RawClient(sidecar.port) as client:
        for _ in range(20):
            assert client.get().status == 200
    assert recorder.accepted == accepted + 1


def test_one_connection_to_the_application_serves_many_clients(sidecar: Sidecar, recorder: Recorder) -> None:
    accepted = recorder.accepted
    for _ in range(10):
        assert get(sidecar.port).status == 200
    assert recorder.accepted == accepted + 1


@pytest.mark.parametrize(
    ("raw", "closes"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", False),
    ],
    ids=["1.1", "1.1 close", "1.0", "1.0 keep-alive"],
)
@pytest.mark.parametrize("target", [b"/", b"/health"])
def test_the_client_decides_whether_its_connection_stays_open(
    raw: bytes, closes: bool, target: bytes, sidecar: Sidecar, recorder: Recorder
) -> None:
    with RawClient(sidecar.port) as client:
        client.send(raw.replace(b" / ", b" %b " % target))
        reply = client.reply()
        assert (reply.status, reply.complete) == (200, True)
        if closes:
            assert client.ends()
        else:
            if b"1.0" in raw:
                assert reply.value("Connection").lower() == "keep-alive"
            assert client.get().status == 200


def test_the_application_closing_its_connection_does_not_close_the_clients(
    sidecar: Sidecar, recorder: Recorder
) -> None:
    recorder.answer(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", Act.CLOSE)
    with RawClient(sidecar.port) as client:
        assert not client.get().says_close
        assert client.get().status == 200


def test_an_http_1_0_client_gets_a_chunked_answer_without_chunks(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(CHUNKED_HEAD + b"5\r\nhello\r\n", 0.01, b"6\r\n world\r\n0\r\n\r\n")
    with RawClient(sidecar.port) as client:
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        reply = client.reply()
    assert (reply.body, reply.complete, reply.says_close) == (b"hello world", True, True)
    assert reply.values("Transfer-Encoding") == []


def test_an_http_1_0_request_reaches_the_application_as_http_1_1_with_a_host(
    sidecar: Sidecar, recorder: Recorder
) -> None:
    with RawClient(sidecar.port) as client:
        client.send(b"GET /old HTTP/1.0\r\n\r\n")
        assert client.reply().status == 200
    assert recorder.only().head.startswith(b"GET /old HTTP/1.1\r\n")
    assert recorder.only().value("host") == b"127.0.0.1:%d" % recorder.port


def test_an_answer_that_ends_with_its_connection_arrives_whole(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.0 200 OK\r\n\r\nhello", 0.01, b" world", Act.CLOSE)
    with RawClient(sidecar.port) as client:
        reply = client.get()
        assert (reply.body, reply.complete, reply.values("Transfer-Encoding")) == (b"hello world", True, ["chunked"])
        assert client.get().status == 200


# Fields for the application and the client


def test_the_application_gets_the_forwarded_fields(sidecar: Sidecar, recorder: Recorder) -> None:
    get(
        sidecar.port,
        "/",
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Host: evil",
        "X-Forwarded-Proto: https",
        "Via: 1.0 old",
        "Forwarded: for=6.6.6.6;proto=https",
        "X-Real-IP: 6.6.6.6",
        "X-Forwarded-Port: 443",
    )
    received = recorder.only()
    assert received.value("forwarded") == b'for=127.0.0.1;host="app.test";proto=http'
    assert received.values("x-real-ip") + received.values("x-forwarded-port") == []
    assert received.value("host") == b"app.test"
    assert received.value("x-forwarded-for") == b"127.0.0.1"
    assert received.value("x-forwarded-host") == b"app.test"
    assert received.value("x-forwarded-proto") == b"http"
    assert received.values("via") == [b"1.0 old", b"1.1 sidegate"]


def test_answers_have_the_via_field(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.1 200 OK\r\nVia: 1.1 old\r\nContent-Length: 0\r\n\r\n")
    assert get(sidecar.port).values("Via") == ["1.1 old", "1.1 sidegate"]


@pytest.mark.slow
def test_claims_of_a_trusted_proxy_pass_and_via_can_be_left_out(store_server: StoreServer, recorder: Recorder) -> None:
    config = configuration(
        store_server.url, recorder.url, upstream={"via": False}, client_ip={"trusted_proxies": ["127.0.0.0/8"]}
    )
    recorder.always(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    claims = ("X-Real-IP: 9.9.9.9", "X-Forwarded-Port: 443", "X-Forwarded-For: 9.9.9.9", "X-Forwarded-Proto: https")
    with Sidecar(config) as sidecar, RawClient(sidecar.port) as client:
        assert client.get("/", *claims).values("Via") == []
        assert client.get("/", "Max-Forwards: 0", method="OPTIONS").values("Via") == []
    received = recorder.only()
    assert (received.value("x-real-ip"), received.value("x-forwarded-port")) == (b"9.9.9.9", b"443")
    assert received.value("forwarded") == b'for=9.9.9.9;host="app.test";proto=https, for=127.0.0.1'
    assert received.values("via") == []


# The decision comes before the body


def refuse_from_now_on(sidecar: Sidecar, recorder: Recorder, user: str) -> None:
    """Spend all tokens that `tight` gives a user."""
    for _ in range(2):
        assert get(sidecar.port, "/tight/x", f"X-User-ID: {user}").status == 200
    recorder.wait_for(2)


def test_a_refused_upload_is_answered_at_once_and_nothing_reaches_the_application(
    sidecar: Sidecar, recorder: Recorder
) -> None:
    refuse_from_now_on(sidecar, recorder, "uploader")
    with RawClient(sidecar.port) as client:
        client.send(b"POST /tight/x HTTP/1.1\r\nHost: a\r\nX-User-ID: uploader\r\nContent-Length: 10000000000\r\n\r\n")
        reply = client.reply()
        assert (reply.status, reply.says_close, reply.complete) == (429, True, True)
        client.send(request("/smuggled"))
        assert client.ends()
    assert len(recorder.requests) == 2


def test_a_refused_expectation_is_answered_without_100(sidecar: Sidecar, recorder: Recorder) -> None:
    refuse_from_now_on(sidecar, recorder, "expectant")
    with RawClient(sidecar.port) as client:
        fields = ("X-User-ID: expectant", "Expect: 100-continue", "Content-Length: 5")
        client.send(request("/tight/x", *fields, method="POST"))
        reply = client.reply()
        assert (reply.status, reply.interim, reply.says_close) == (429, [], True)
        client.send(b"hello" + request("/smuggled"))
        assert client.ends()
    assert len(recorder.requests) == 2


def test_an_allowed_expectation_is_answered_100_and_then_finally(sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(sidecar.port) as client:
        client.send(request("/", "Expect: 100-continue", "Content-Length: 5", method="POST"))
        assert client.head().status == 100
        client.send(b"hello")
        reply = client.reply()
        assert (reply.status, reply.interim) == (200, [])
        assert client.get().status == 200
    assert (recorder.requests[0].body, recorder.requests[0].values("expect")) == (b"hello", [])


def test_an_expectation_of_http_1_0_is_not_answered(sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(sidecar.port) as client:
        client.send(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        recorder.wait_for(1)
        client.send(b"hello")
        reply = client.reply()
    assert (reply.status, reply.interim) == (200, [])


def test_a_refused_head_has_no_body_and_its_connection_goes_on(sidecar: Sidecar, recorder: Recorder) -> None:
    refuse_from_now_on(sidecar, recorder, "header")
    with RawClient(sidecar.port) as client:
        reply = client.get("/tight/x", "X-User-ID: header", method="HEAD")
        assert (reply.status, reply.says_close) == (429, False)
        assert int(reply.value("Content-Length")) > 0
        assert client.get("/").body == b"ok"


def test_a_refused_small_upload_leaves_its_connection_usable(sidecar: Sidecar, recorder: Recorder) -> None:
    refuse_from_now_on(sidecar, recorder, "small")
    with RawClient(sidecar.port) as client:
        assert client.get("/tight/x", "X-User-ID: small", method="POST", body=b"hello").status == 429
        assert client.get("/").body == b"ok"


# When somebody leaves


def test_a_client_that_leaves_ends_the_request_at_the_application(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.always(Act.HOLD)
    with RawClient(sidecar.port) as client:
        client.send(request())
        (received,) = recorder.wait_for(1)
    eventually(lambda: received.connection not in recorder.open, "the end of the upstream connection")


def test_a_client_that_leaves_within_an_answer_ends_it_at_the_application(
    sidecar: Sidecar, recorder: Recorder, store_server: StoreServer
) -> None:
    recorder.always(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n", Zeros(1024 * MIB))
    with RawClient(sidecar.port) as client:
        client.send(request())
        assert client.head().status == 200
        client.read(100_000)
        client.reset()
    eventually(lambda: not recorder.open, "the end of the upstream connection")
    assert spent(store_server) == {"client_ip=127.0.0.1": 1}


def test_a_client_that_leaves_within_its_upload_ends_it_at_the_application(
    sidecar: Sidecar, recorder: Recorder
) -> None:
    with RawClient(sidecar.port) as client:
        client.send(request("/", "Content-Length: 1000", method="POST") + b"abc")
        (received,) = recorder.wait_for(1)
    eventually(lambda: received.connection not in recorder.open, "the end of the upstream connection")
    assert not received.complete


def test_a_client_that_leaves_does_not_affect_others(sidecar: Sidecar, recorder: Recorder) -> None:
    for _ in range(50):
        with RawClient(sidecar.port) as client:
            client.send(request("/gone"))
            client.reset()
    assert get(sidecar.port, "/stayed").status == 200


# When the application fails


@pytest.fixture(scope="module")
def lonely_sidecar(shared_store_server: StoreServer) -> Iterator[Sidecar]:
    """A sidecar whose application does not run."""
    with Sidecar(configuration(shared_store_server.url, f"http://127.0.0.1:{free_port()}")) as sidecar:
        yield sidecar


def test_an_application_that_does_not_run_is_a_bad_gateway(lonely_sidecar: Sidecar) -> None:
    with RawClient(lonely_sidecar.port) as client:
        for method in ("GET", "POST", "HEAD"):
            reply = client.get("/", method=method, body=b"hello" if method == "POST" else None)
            assert (reply.status, reply.says_close) == (502, False)
        reply = client.get("/")
    assert reply.value("Content-Type") == "application/problem+json"
    assert reply.json()["error"] == "upstream_connect"


def test_an_upload_to_an_application_that_does_not_run_is_answered_and_cut(lonely_sidecar: Sidecar) -> None:
    with RawClient(lonely_sidecar.port) as client:
        client.send(request("/", "Content-Length: 100000000", method="POST") + bytes(100_000))
        reply = client.reply()
        assert (reply.status, reply.says_close) == (502, True)


@pytest.mark.slow
def test_an_application_that_does_not_answer_is_a_gateway_timeout(
    impatient_sidecar: Sidecar, recorder: Recorder
) -> None:
    recorder.answer(Act.HOLD)
    with RawClient(impatient_sidecar.port) as client:
        reply = client.get("/", method="POST", body=b"hello")
        assert (reply.status, reply.says_close, reply.json()["error"]) == (504, False, "upstream_timeout")
        assert client.get("/next").status == 200
    first, second = recorder.requests
    assert first.connection != second.connection
    eventually(lambda: first.connection not in recorder.open, "the end of the upstream connection")


@pytest.mark.slow
def test_a_late_get_is_not_sent_again(impatient_sidecar: Sidecar, recorder: Recorder) -> None:
    assert get(impatient_sidecar.port, "/before").status == 200
    recorder.always(Act.HOLD)
    assert get(impatient_sidecar.port, "/late").status == 504
    assert [received.target for received in recorder.requests] == [b"/before", b"/late"]


@pytest.mark.slow
def test_an_answer_that_stops_in_its_middle_is_broken_off(impatient_sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", Act.HOLD)
    with RawClient(impatient_sidecar.port) as client:
        client.send(request())
        reply = client.reply()
        assert (reply.status, reply.complete, reply.body[:5]) == (200, False, b"hello"[: len(reply.body)])
    eventually(lambda: not recorder.open, "the end of the upstream connection")


@pytest.mark.slow
def test_an_answer_that_drips_is_no_timeout(impatient_sidecar: Sidecar, recorder: Recorder) -> None:
    drops: list[Step] = [b"1\r\na\r\n", 0.03]
    recorder.answer(CHUNKED_HEAD, *drops * 14, b"0\r\n\r\n")
    assert get(impatient_sidecar.port).body == b"a" * 14


@pytest.mark.slow
def test_an_application_that_stops_reading_is_a_gateway_timeout(impatient_sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(Act.HOLD, body=ReadBody.NONE)
    with RawClient(impatient_sidecar.port) as client:
        client.send(request("/", "Content-Length: 100000000", method="POST"))
        sender = threading.Thread(target=client.send, args=(bytes(50_000_000),))
        sender.start()
        reply = client.reply()
        assert (reply.status, reply.says_close) == (504, True)
        sender.join()


def test_an_upload_that_stops_is_answered_408_and_ended_at_the_application(
    impatient_sidecar: Sidecar, recorder: Recorder
) -> None:
    with RawClient(impatient_sidecar.port) as client:
        client.send(chunked_post(b"5\r\nhello\r\n"))
        reply = client.reply()
        assert (reply.status, reply.says_close) == (408, True)
    (received,) = recorder.requests
    eventually(lambda: received.connection not in recorder.open, "the end of the upstream connection")
    assert not received.complete


# Bounds


def test_requests_wait_for_one_of_the_few_connections(impatient_sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.always(0.03, OK)
    before = recorder.accepted
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(get(impatient_sidecar.port).status)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 6
    assert recorder.accepted - before <= 2


def test_requests_that_wait_too_long_for_a_connection_get_retry_after(
    impatient_sidecar: Sidecar, recorder: Recorder
) -> None:
    recorder.always(Act.HOLD)
    with RawClient(impatient_sidecar.port) as first, RawClient(impatient_sidecar.port) as second:
        first.send(request())
        second.send(request())
        recorder.wait_for(2)
        reply = get(impatient_sidecar.port)
    assert (reply.status, reply.value("Retry-After"), reply.json()["error"]) == (503, "1", "upstream_busy")


def test_a_body_that_arrives_while_its_request_waits_for_a_connection_is_sent_whole(
    impatient_sidecar: Sidecar, recorder: Recorder
) -> None:
    recorder.always(Act.HOLD, OK)
    with (
        RawClient(impatient_sidecar.port) as first,
        RawClient(impatient_sidecar.port) as second,
        RawClient(impatient_sidecar.port) as third,
    ):
        first.send(request())
        second.send(request())
        recorder.wait_for(2)
        third.send(request("/third", "Content-Length: 5", method="POST"))
        assert get(impatient_sidecar.port, "/health").status == 200  # so that the body comes apart from the head
        third.send(b"hello")
        assert get(impatient_sidecar.port, "/health").status == 200
        recorder.always(OK)
        recorder.release()
        assert third.reply().status == 200
    (received,) = [received for received in recorder.requests if received.target == b"/third"]
    assert (received.body, received.complete) == (b"hello", True)


def test_a_client_that_leaves_the_queue_frees_its_place(impatient_sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.always(Act.HOLD)
    with RawClient(impatient_sidecar.port) as first, RawClient(impatient_sidecar.port) as second:
        first.send(request())
        second.send(request())
        recorder.wait_for(2)
        with RawClient(impatient_sidecar.port) as third:
            third.send(request("/gone"))
        recorder.always(OK)
        recorder.release()
    eventually(lambda: get(impatient_sidecar.port, "/after").status == 200, "a free connection")
    assert b"/gone" not in [received.target for received in recorder.requests]


def test_connections_beyond_the_limit_are_answered_503_and_closed(
    impatient_sidecar: Sidecar, recorder: Recorder
) -> None:
    recorder.always(Act.HOLD)
    clients = [RawClient(impatient_sidecar.port) for _ in range(8)]
    try:
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\n")  # not yet a request; the connection counts
        with RawClient(impatient_sidecar.port) as one_too_many:
            reply = one_too_many.reply()
            assert (reply.status, reply.says_close, reply.json()["error"]) == (503, True, "too_many_connections")
            assert one_too_many.ends()
    finally:
        for client in clients:
            client.__exit__(None, None, None)
    recorder.always(OK)
    eventually(lambda: get(impatient_sidecar.port).status == 200, "a place")


# Bodies of any length


@pytest.mark.slow
@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
def test_a_large_download_takes_little_memory(chunked: bool, sidecar: Sidecar, recorder: Recorder) -> None:
    head = CHUNKED_HEAD if chunked else b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE_BYTES
    recorder.always(head, Zeros(LARGE_BYTES, chunked))
    with RawClient(sidecar.port, patience_s=20) as client:
        client.send(request())
        assert client.head().status == 200
        time.sleep(0.1)  # a client that takes its time
        client.count_rest_of(LARGE_BYTES)
    assert sidecar.peak_rss_bytes() < LARGEST_RSS_BYTES


@pytest.mark.slow
def test_an_endless_stream_of_small_events_takes_no_memory(sidecar: Sidecar, recorder: Recorder) -> None:
    event = b"data: tick\n\n"
    events = b"%x\r\n%b\r\n" % (len(event), event) * 40_000
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    recorder.answer(head, *[events] * 8, Act.HOLD)
    with RawClient(sidecar.port) as client:
        client.send(request())
        assert client.head().value("Content-Type") == "text/event-stream"
        payload = 0
        for part in range(8):
            while payload < (part + 1) * 40_000 * len(event):
                payload += len(client.chunk())
            if part == 0:
                before = sidecar.rss_bytes()
        assert sidecar.rss_bytes() - before < 4 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
def test_a_large_upload_takes_little_memory(chunked: bool, sidecar: Sidecar, recorder: Recorder) -> None:
    piece = bytes(256 * 1024)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {LARGE_BYTES}"
    with RawClient(sidecar.port, patience_s=20) as client:
        client.send(request("/", framing, method="POST"))
        for _ in range(LARGE_BYTES // len(piece)):
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        client.send(b"0\r\n\r\n" if chunked else b"")
        assert client.reply().status == 200
    assert (recorder.only().body_bytes, recorder.only().complete) == (LARGE_BYTES, True)
    assert sidecar.peak_rss_bytes() < LARGEST_RSS_BYTES


@pytest.mark.slow
def test_a_client_that_does_not_read_stops_the_application_from_writing(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.always(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE_BYTES, Zeros(LARGE_BYTES))
    before = sidecar.rss_bytes()
    with RawClient(sidecar.port, receive_buffer_bytes=4096) as client:
        client.send(request())
        assert client.head().status == 200
        time.sleep(0.3)
        assert sidecar.rss_bytes() - before < 16 * MIB
