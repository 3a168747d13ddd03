"""The contract with aiohttp's parser of heads: what the edge relies on, one test each.

If one of these fails after an update of aiohttp, review the code of the edge that relies on it before updating.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sidegate.config.lint import METHODS
from sidegate.edge.engine import (
    MOST_FIELDS,
    EngineError,
    ParsedRequest,
    ParsedResponse,
    RequestEngine,
    ResponseEngine,
    ensure_compiled,
)

HEAD = b"Host: app.test\r\n"
GET = b"GET /one HTTP/1.1\r\n" + HEAD + b"\r\n"
LARGEST_HEAD_BYTES = 8 * 1024


def request(data: bytes) -> ParsedRequest:
    return RequestEngine(LARGEST_HEAD_BYTES).parse(data)


def response(data: bytes) -> ParsedResponse:
    return ResponseEngine().parse(data)


# Which parser


def test_the_compiled_parser_is_in_use() -> None:
    ensure_compiled()


@pytest.mark.slow
def test_the_fallback_parser_is_refused() -> None:
    code = "from sidegate.edge.engine import ensure_compiled; ensure_compiled()"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "AIOHTTP_NO_EXTENSIONS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert run.returncode == 1
    assert "Sidegate refuses to parse requests with the fallback" in run.stderr


# Requests


@pytest.mark.parametrize("cut", range(1, len(GET)))
def test_a_head_may_come_in_any_two_pieces(cut: int) -> None:
    engine = RequestEngine(LARGEST_HEAD_BYTES)
    engine.feed(GET[:cut])
    assert engine.parse(GET[cut:]) == ("GET", "/one", ((b"Host", b"app.test"),))


def test_fields_keep_their_bytes_order_and_number() -> None:
    parsed = request(GET[:-2] + b"X-A: gr\xfc\xdfe \t\r\nx-a:2\r\n\r\n")
    assert parsed.fields == ((b"Host", b"app.test"), (b"X-A", b"gr\xfc\xdfe"), (b"x-a", b"2"))


def test_the_target_is_kept_as_it_was_sent() -> None:
    assert request(b"GET /a%20b//c?q#f HTTP/1.1\r\n" + HEAD + b"\r\n").target == "/a%20b//c?q#f"


def test_a_byte_over_127_in_the_target_is_refused() -> None:
    with pytest.raises(EngineError):
        request(b"GET /\xff HTTP/1.1\r\n" + HEAD + b"\r\n")


@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b""])
@pytest.mark.parametrize("upgrade", [b"", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"])
def test_a_head_ends_at_its_empty_line_whatever_body_it_announces(framing: bytes, upgrade: bytes) -> None:
    assert request(b"POST / HTTP/1.1\r\n" + HEAD + framing + upgrade + b"\r\n").method == "POST"


@pytest.mark.parametrize("behind", [b"x", b"\r\n", GET])
def test_a_head_that_ends_before_its_last_byte_is_refused(behind: bytes) -> None:
    with pytest.raises(EngineError):
        request(GET + behind)


def test_a_head_that_does_not_end_is_refused() -> None:
    with pytest.raises(EngineError):
        request(GET[:-1])


def test_connect_is_parsed() -> None:
    assert request(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n").method == "CONNECT"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.9\r\nHost: a\r\n\r\n",
        b"FROB / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
    ],
)
def test_the_request_parser_is_strict(data: bytes) -> None:
    with pytest.raises(EngineError):
        request(data)


@pytest.mark.parametrize(
    "fields",
    [
        b"Host: a@b/c?d\r\n",
        b"Host: a\r\nTransfer-Encoding: gzip, chunked\r\n",
        b"Host: a\r\nTransfer-Encoding: identity, chunked\r\n",
    ],
)
def test_the_reader_refuses_requests_that_llhttp_accepts(fields: bytes) -> None:
    request(b"POST / HTTP/1.1\r\n" + fields + b"\r\n")


@pytest.mark.parametrize(
    "line", [b"GET /" + b"a" * 16_384 + b" HTTP/1.1\r\n" + HEAD, GET[:-2] + b"X: " + b"a" * 16_384]
)
def test_a_line_that_is_too_long_has_its_own_error(line: bytes) -> None:
    with pytest.raises(EngineError) as raised:
        request(line + b"\r\n\r\n")
    assert raised.value.too_long


def test_too_many_fields_are_refused() -> None:
    with pytest.raises(EngineError):
        request(GET[:-2] + b"".join(b"X-%d: a\r\n" % n for n in range(MOST_FIELDS)) + b"\r\n")


# Responses


@pytest.mark.parametrize("status", [b"200 OK", b"204 No Content", b"304 Not Modified", b"101 Switching", b"103 Hints"])
@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_an_answers_head_ends_at_its_empty_line(status: bytes, framing: bytes) -> None:
    parsed = response(b"HTTP/1.1 " + status + b"\r\n" + framing + b"\r\n")
    assert (parsed.status, len(parsed.fields)) == (int(status[:3]), int(bool(framing)))


def test_an_answer_with_bare_line_feeds_is_accepted() -> None:
    assert response(b"HTTP/1.1 200 OK\nX-A: b\n\n").fields == ((b"X-A", b"b"),)


def test_a_folded_field_of_an_answer_is_unfolded() -> None:
    fields = response(b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\n\r\n").fields
    assert all(b"\n" not in value and b"\r" not in value for _, value in fields)


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\n\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 20 OK\r\n\r\n"]
)
def test_the_response_parser_refuses_invalid_answers(data: bytes) -> None:
    with pytest.raises(EngineError):
        response(data)


# Methods


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_that_a_configuration_may_name_is_accepted(method: str) -> None:
    assert request(GET.replace(b"GET", method.encode())).method == method


@pytest.mark.parametrize("method", ["GTE", "FOO", "PURGEALL"])
def test_a_method_that_check_warns_of_is_refused(method: str) -> None:
    with pytest.raises(EngineError):
        request(GET.replace(b"GET", method.encode()))
