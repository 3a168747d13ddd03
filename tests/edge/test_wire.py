"""The contract with aiohttp's HTTP engine: what the edge relies on, one test each.

Where one of these fails after an update of aiohttp, the edge's own reasoning must be looked at again before the update.
"""

import asyncio
import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sidegate.config.lint import METHODS
from sidegate.edge.wire import (
    BODY_BUFFER_BYTES,
    BROKEN_BODY,
    EMPTY_BODY,
    MOST_FIELDS,
    BaseProtocol,
    Body,
    HttpProcessingError,
    LineTooLong,
    RequestMessage,
    RequestParser,
    ResponseMessage,
    ResponseParser,
    ends_clean,
    ensure_compiled,
    request_parser,
    response_parser,
)

HEAD = b"Host: app.test\r\n"
GET = b"GET /one HTTP/1.1\r\n" + HEAD + b"\r\n"
NEXT = b"GET /two HTTP/1.1\r\n" + HEAD + b"\r\n"
LARGEST_HEAD_BYTES = 8 * 1024


def chunked(body: bytes) -> bytes:
    return b"POST /one HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body


class Transport(asyncio.Transport):
    """Notes whether reading is paused, and how often it was resumed."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False
        self.resumed = 0

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        self.resumed += 1


class Protocol(BaseProtocol):
    """A protocol with nothing of ours in it but the parser."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
        self.fake = Transport()
        self.transport = self.fake

    def data_received(self, data: bytes) -> None:
        assert self._parser is not None
        self._parser.feed_data(data)


@pytest.fixture
async def protocol() -> Protocol:
    return Protocol()


@pytest.fixture
async def requests(protocol: Protocol) -> RequestParser:
    parser = request_parser(protocol, asyncio.get_running_loop(), LARGEST_HEAD_BYTES)
    protocol._parser = parser
    return parser


@pytest.fixture
async def responses(protocol: Protocol) -> ResponseParser:
    parser = response_parser(protocol, asyncio.get_running_loop())
    protocol._parser = parser
    return parser


def one_request(parser: RequestParser, data: bytes) -> tuple[RequestMessage, Body]:
    ((message, body),) = parser.feed_data(data)[0]
    return message, body


def one_response(parser: ResponseParser, data: bytes) -> tuple[ResponseMessage, Body]:
    ((message, body),) = parser.feed_data(data)[0]
    return message, body


# Which parser


def test_the_compiled_parser_is_in_use() -> None:
    ensure_compiled()


@pytest.mark.slow
def test_the_fallback_parser_is_refused() -> None:
    code = "from sidegate.edge.wire import ensure_compiled; ensure_compiled()"
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


@pytest.mark.parametrize("consumed", [True, False])
def test_the_request_parser_stops_after_each_message_until_it_is_fed_again(
    consumed: bool, requests: RequestParser
) -> None:
    paths = [one_request(requests, GET + NEXT + GET)[0].path]
    for _ in range(2):
        if consumed:
            requests.message_consumed()
        paths.append(one_request(requests, b"")[0].path)
    assert paths == ["/one", "/two", "/one"]


def test_bytes_behind_a_message_wait_unparsed_and_are_not_lost(requests: RequestParser) -> None:
    one_request(requests, GET + NEXT[:10])
    requests.message_consumed()
    assert not requests.feed_data(b"")[0]
    assert one_request(requests, NEXT[10:])[0].path == "/two"


def test_bad_bytes_behind_a_message_are_not_found_before_the_parser_is_fed_again(requests: RequestParser) -> None:
    assert one_request(requests, GET + b"\x00\x00\x00\r\n\r\n")[0].path == "/one"
    requests.message_consumed()
    with pytest.raises(HttpProcessingError):
        requests.feed_data(b"")


def test_blank_lines_before_a_request_are_skipped(requests: RequestParser) -> None:
    assert one_request(requests, b"\r\n\r\n" + GET)[0].path == "/one"


@pytest.mark.parametrize("cut", range(1, len(GET)))
def test_a_head_may_come_in_any_two_pieces(cut: int, requests: RequestParser) -> None:
    assert not requests.feed_data(GET[:cut])[0]
    message, body = one_request(requests, GET[cut:])
    assert (message.method, message.path, message.headers["host"], body.is_eof()) == ("GET", "/one", "app.test", True)


def test_a_request_without_framing_has_the_empty_body(requests: RequestParser) -> None:
    _, body = one_request(requests, GET)
    assert body is EMPTY_BODY
    assert body.read_nowait() == b""


def test_fields_keep_their_bytes_order_and_number(requests: RequestParser) -> None:
    message, _ = one_request(requests, GET[:-2] + b"X-A: gr\xfc\xdfe \t\r\nx-a:2\r\n\r\n")
    assert message.raw_headers == ((b"Host", b"app.test"), (b"X-A", b"gr\xfc\xdfe"), (b"x-a", b"2"))
    assert message.headers.getall("X-A") == ["gr\udcfc\udcdfe", "2"]


def test_the_target_is_kept_as_it_was_sent(requests: RequestParser) -> None:
    message, _ = one_request(requests, b"GET /a%20b//c?q#f HTTP/1.1\r\n" + HEAD + b"\r\n")
    assert message.path == "/a%20b//c?q#f"


def test_a_byte_over_127_in_the_target_is_refused(requests: RequestParser) -> None:
    with pytest.raises(HttpProcessingError):
        requests.feed_data(b"GET /\xff HTTP/1.1\r\n" + HEAD + b"\r\n")


def test_a_counted_body_ends_with_its_last_byte(requests: RequestParser) -> None:
    _, body = one_request(requests, b"POST / HTTP/1.1\r\n" + HEAD + b"Content-Length: 5\r\n\r\nhell")
    assert not body.is_eof()
    requests.feed_data(b"o")
    assert (body.is_eof(), body.read_nowait()) == (True, b"hello")


def test_a_compressed_body_is_not_unpacked(requests: RequestParser) -> None:
    packed = gzip.compress(b"hello")
    fields = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    assert one_request(requests, b"POST / HTTP/1.1\r\n" + HEAD + fields + packed)[1].read_nowait() == packed


def test_a_chunked_message_that_ends_in_a_trailer_leaks_it_into_the_next_message(requests: RequestParser) -> None:
    """The reason for `ends_clean`. Where this fails, aiohttp has mended it, and docs/adr/0004 can be undone."""
    one_request(requests, chunked(b"0\r\nX-User-ID: bob\r\n\r\n"))
    requests.message_consumed()
    message, _ = one_request(requests, NEXT)
    assert message.headers.get("X-User-ID") == "bob"


def test_a_chunked_message_without_trailers_leaks_nothing(requests: RequestParser) -> None:
    one_request(requests, chunked(b"5\r\nhello\r\n0\r\n\r\n"))
    requests.message_consumed()
    message, _ = one_request(requests, NEXT)
    assert message.raw_headers == ((b"Host", b"app.test"),)


@pytest.mark.parametrize(
    ("ending", "clean"),
    [
        (b"hello\r\n0\r\n\r\n", True),
        (b"\r\n0\r\n\r\n", True),
        (b"\r\n0\r\nX-A: b\r\n\r\n", False),
        (b"\r\n0;x\r\n\r\n", False),
        (b"\r\n00\r\n\r\n", False),
        (b"\r\n0\r\n\r\nGET", False),
        (b"10\r\n\r\n", False),
        (b"", False),
    ],
)
def test_a_chunked_message_ends_clean_where_nothing_but_the_last_chunk_ends_it(ending: bytes, clean: bool) -> None:
    assert ends_clean(ending) is clean


@pytest.mark.parametrize("protocol_name", [b"websocket", b"WebSocket"])
def test_a_known_upgrade_hands_back_what_came_behind_it_at_the_next_feeding(
    protocol_name: bytes, requests: RequestParser
) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: " + protocol_name + b"\r\n\r\n"
    message, body = one_request(requests, b"GET /ws HTTP/1.1\r\n" + HEAD + upgrade + NEXT)
    assert (message.upgrade, body.is_eof()) == (True, True)
    messages, upgraded, rest = requests.feed_data(b"")
    assert (list(messages), upgraded, rest) == ([], True, NEXT)


def test_an_unknown_upgrade_is_marked(requests: RequestParser) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert one_request(requests, b"GET / HTTP/1.1\r\n" + HEAD + upgrade)[0].upgrade


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.9\r\nHost: a\r\n\r\n",
        b"FROB / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;\na\r\n0\r\n\r\n",
    ],
)
def test_the_request_parser_is_strict(data: bytes, requests: RequestParser) -> None:
    with pytest.raises(HttpProcessingError):
        requests.feed_data(data)


@pytest.mark.parametrize(
    "fields",
    [
        b"Host: a@b/c?d\r\n",
        b"Host: a\r\nTransfer-Encoding: gzip, chunked\r\n",
        b"Host: a\r\nTransfer-Encoding: identity, chunked\r\n",
    ],
)
def test_the_request_parser_lets_through_what_the_server_must_stop(fields: bytes, requests: RequestParser) -> None:
    one_request(requests, b"POST / HTTP/1.1\r\n" + fields + b"\r\n")


def test_a_field_or_a_line_that_is_too_long_is_told_apart(requests: RequestParser) -> None:
    with pytest.raises(LineTooLong):
        requests.feed_data(GET[:-2] + b"X-A: " + b"a" * 2 * LARGEST_HEAD_BYTES + b"\r\n\r\n")


def test_a_target_that_is_too_long_is_told_apart(requests: RequestParser) -> None:
    with pytest.raises(LineTooLong):
        requests.feed_data(b"GET /" + b"a" * 2 * LARGEST_HEAD_BYTES + b" HTTP/1.1\r\n\r\n")


def test_too_many_fields_are_refused(requests: RequestParser) -> None:
    with pytest.raises(HttpProcessingError):
        requests.feed_data(GET[:-2] + b"".join(b"X-%d: a\r\n" % n for n in range(MOST_FIELDS)) + b"\r\n")


# Responses


def test_a_response_without_length_lasts_until_the_end_of_the_connection(responses: ResponseParser) -> None:
    message, body = one_response(responses, b"HTTP/1.1 200 OK\r\n\r\nhello")
    assert (message.should_close, body.is_eof()) == (True, False)
    responses.feed_eof()
    assert (body.is_eof(), body.read_nowait()) == (True, b"hello")


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 9\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"]
)
def test_a_response_that_ends_before_its_end_is_broken(framing: bytes, responses: ResponseParser) -> None:
    one_response(responses, b"HTTP/1.1 200 OK\r\n" + framing)
    with pytest.raises(BROKEN_BODY):
        responses.feed_eof()


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_204_and_304_have_no_body_whatever_they_announce(status: bytes, responses: ResponseParser) -> None:
    _, body = one_response(responses, b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\n")
    assert body.is_eof()


async def test_a_bodyless_parser_takes_no_body_whatever_is_announced(protocol: Protocol) -> None:
    for framing in (b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b""):
        parser = response_parser(protocol, asyncio.get_running_loop(), bodyless=True)
        message, body = one_response(parser, b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n")
        assert (message.code, body.is_eof()) == (200, True)


def test_interim_and_final_answers_come_out_of_one_segment_in_order(responses: ResponseParser) -> None:
    data = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert [message.code for message, _ in responses.feed_data(data)[0]] == [103, 200]


def test_a_second_answer_comes_out_as_a_second_message(responses: ResponseParser) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert len(responses.feed_data(answer * 2)[0]) == 2


def test_the_response_parser_is_used_for_one_answer_after_another(responses: ResponseParser) -> None:
    for _ in range(3):
        _, body = one_response(responses, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert body.read_nowait() == b"ok"


def test_a_folded_field_of_a_response_comes_out_on_one_line(responses: ResponseParser) -> None:
    message, _ = one_response(responses, b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 0\r\n\r\n")
    assert all(b"\n" not in value and b"\r" not in value for _, value in message.raw_headers)


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\n\r\n", b"SSH-2.0\r\n", b"HTTP/1.1 20 OK\r\n\r\n"])
def test_the_response_parser_refuses_what_is_no_answer(data: bytes, responses: ResponseParser) -> None:
    with pytest.raises(HttpProcessingError):
        responses.feed_data(data)


# Flow control


async def test_a_body_that_is_not_read_pauses_its_connection_and_reading_it_resumes(
    protocol: Protocol, responses: ResponseParser
) -> None:
    large = bytes(3 * BODY_BUFFER_BYTES)
    _, body = one_response(responses, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(large)))
    responses.feed_data(large)
    assert protocol.fake.paused
    assert await body.readany() == large
    assert not protocol.fake.paused


async def test_what_came_while_a_body_was_paused_is_parsed_when_reading_resumes(
    protocol: Protocol, requests: RequestParser
) -> None:
    large = bytes(3 * BODY_BUFFER_BYTES)
    _, body = one_request(requests, chunked(b"%x\r\n%b\r\n" % (len(large), large)))
    assert protocol.fake.paused
    requests.feed_data(b"5\r\nhello\r\n0\r\n\r\n")
    received = b""
    while data := await body.readany():
        received += data
    assert received == large + b"hello"


async def test_resuming_a_connection_that_was_not_paused_costs_nothing(
    protocol: Protocol, requests: RequestParser
) -> None:
    one_request(requests, b"POST / HTTP/1.1\r\n" + HEAD + b"Content-Length: 5\r\n\r\nhello")
    assert protocol.fake.resumed == 0


async def test_an_error_set_on_a_body_is_raised_to_its_reader_before_anything_that_is_buffered(
    responses: ResponseParser,
) -> None:
    _, body = one_response(responses, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
    body.set_exception(ConnectionResetError("gone"))
    with pytest.raises(BROKEN_BODY):
        await body.readany()


# -- methods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(METHODS))
async def test_a_method_that_a_configuration_may_name_is_taken(requests: RequestParser, method: str) -> None:
    messages, _, _ = requests.feed_data(GET.replace(b"GET", method.encode()))
    assert [message.method for message, _ in messages] == [method]


@pytest.mark.parametrize("method", ["GTE", "FOO", "PURGEALL"])
async def test_a_method_that_check_warns_of_is_refused(requests: RequestParser, method: str) -> None:
    with pytest.raises(HttpProcessingError):
        requests.feed_data(GET.replace(b"GET", method.encode()))
