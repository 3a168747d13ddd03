"""Buffers for slow clients: bodies arrive whole at the application, and answers leave it before they are read."""

import time
from collections.abc import Iterator

import pytest

from tests.raw_client import RawClient, get, request
from tests.recorder import OK, ReadBody, Recorder, Zeros, eventually
from tests.servers import StoreServer
from tests.sidecar import Sidecar, configuration
from tests.telemetry.scraped import scraped

KIB = 1024
LIMIT = 64 * KIB


@pytest.fixture(scope="module")
def shared_buffering_sidecar(shared_store_server: StoreServer, shared_recorder: Recorder) -> Iterator[Sidecar]:
    config = configuration(
        shared_store_server.url,
        shared_recorder.url,
        listen={
            "max_body_bytes": "300KiB",
            "body_timeout": "300ms",
            "min_body_bytes_per_s": 1000,
            "write_timeout": "1s",
        },
        upstream={"max_connections": 1, "buffer_total": "4MiB"},
        log={"requests": "all"},
    )
    with Sidecar(config) as sidecar:
        yield sidecar


@pytest.fixture
def buffering(store_server: StoreServer, recorder: Recorder, shared_buffering_sidecar: Sidecar) -> Sidecar:
    return shared_buffering_sidecar


def scrape(sidecar: Sidecar, name: str) -> int:
    """A metric, summed over its labels."""
    return int(scraped(sidecar)[name].total())


def chunks(body: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(body), size):
        piece = body[at : at + size]
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


CHUNKED = request("/", "Transfer-Encoding: chunked", method="POST")


@pytest.mark.parametrize("pause_s", [0.0, 0.01], ids=["one segment", "many segments"])
@pytest.mark.parametrize(
    ("size", "whole"), [(0, True), (5, True), (LIMIT, True), (LIMIT + 1, False), (100 * KIB, False)]
)
def test_the_framing_of_a_chunked_body_depends_on_its_size_alone(
    size: int, whole: bool, pause_s: float, buffering: Sidecar, recorder: Recorder
) -> None:
    body = bytes(size)
    with RawClient(buffering.port) as client:
        if pause_s:
            client.send(CHUNKED)
            for piece in chunks(body, max(1, size // 4)):
                time.sleep(pause_s)
                client.send(piece)
        else:
            client.send(CHUNKED + b"".join(chunks(body, LIMIT)))
        assert client.reply().status == 200
    received = recorder.only()
    assert received.body == body
    assert received.values("content-length") == ([b"%d" % size] if whole else [])
    assert received.values("transfer-encoding") == ([] if whole else [b"chunked"])


@pytest.mark.parametrize("head", [CHUNKED, request("/", f"Content-Length: {40 * KIB}", method="POST")])
def test_a_slow_upload_takes_no_connection(head: bytes, buffering: Sidecar, recorder: Recorder) -> None:
    body = bytes(40 * KIB)
    with RawClient(buffering.port) as slow, RawClient(buffering.port) as fast:
        framed = b"".join(chunks(body, 10 * KIB)) if head is CHUNKED else body
        slow.send(head + framed[: 20 * KIB])
        assert fast.get().status == 200  # on the only connection
        assert len(recorder.requests) == 1
        slow.send(framed[20 * KIB :])
        assert slow.reply().status == 200
    assert recorder.requests[1].value("content-length") == b"%d" % len(body)
    eventually(lambda: scrape(buffering, "sidegate_buffered_bytes") == 0, "empty buffers")


def test_a_longer_body_is_passed_on_while_it_arrives(buffering: Sidecar, recorder: Recorder) -> None:
    with RawClient(buffering.port) as client:
        client.send(request("/", f"Content-Length: {100 * KIB}", method="POST") + bytes(10))
        recorder.wait_for(1)
        client.send(bytes(100 * KIB - 10))
        assert client.reply().status == 200
    assert recorder.only().value("content-length") == b"%d" % (100 * KIB)


def test_an_expectation_is_met_before_the_body_is_collected(buffering: Sidecar, recorder: Recorder) -> None:
    with RawClient(buffering.port) as client:
        client.send(request("/", "Expect: 100-continue", "Content-Length: 5", method="POST"))
        assert client.head().status == 100
        assert recorder.requests == []
        client.send(b"hello")
        assert client.reply().status == 200
    assert recorder.only().body == b"hello"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (CHUNKED + b"3\r\nabc\r\n", 408),  # and nothing more
        (CHUNKED + b"3\r\nabcX", 400),
        (request("/", "Content-Length: 300", method="POST") + b"x", 408),
    ],
)
def test_a_body_that_fails_while_it_is_collected_never_reaches_the_application(
    sent: bytes, status: int, buffering: Sidecar, recorder: Recorder
) -> None:
    with RawClient(buffering.port) as client:
        client.send(sent)
        assert client.reply().status == status
    assert get(buffering.port).status == 200
    assert len(recorder.requests) == 1
    assert scrape(buffering, "sidegate_buffered_bytes") == 0


def test_a_client_that_leaves_its_upload_frees_its_buffer(buffering: Sidecar, recorder: Recorder) -> None:
    with RawClient(buffering.port) as client:
        client.send(CHUNKED + b"".join(chunks(bytes(30 * KIB), 30 * KIB))[:-5])
        eventually(lambda: scrape(buffering, "sidegate_buffered_bytes") >= 30 * KIB, "a held body")
        client.reset()
    eventually(lambda: scrape(buffering, "sidegate_buffered_bytes") == 0, "an empty buffer")
    assert recorder.requests == []


def test_a_reused_connection_that_is_closed_costs_no_collected_body(buffering: Sidecar, recorder: Recorder) -> None:
    with RawClient(buffering.port) as client:
        assert client.get().status == 200
        recorder.always(OK)
        client.send(request("/", "Content-Length: 5", method="PUT"))
        client.send(b"hello")
        assert client.reply().status == 200


@pytest.mark.slow
def test_a_slow_reader_holds_no_connection(buffering: Sidecar, recorder: Recorder) -> None:
    size = 700 * KIB
    recorder.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, Zeros(size))
    with RawClient(buffering.port, receive_buffer_bytes=4096) as slow, RawClient(buffering.port) as fast:
        slow.send(request("/slow"))
        recorder.wait_for(1)
        assert fast.get().status == 200  # the only connection is free again
        reply = slow.reply()
        assert (reply.complete, len(reply.body)) == (True, size)
        assert slow.get().status == 200
    eventually(lambda: scrape(buffering, "sidegate_buffered_bytes") == 0, "an empty buffer")


@pytest.mark.slow
@pytest.mark.parametrize("closing", [False, True])
def test_a_slow_reader_that_keeps_the_rate_gets_all(closing: bool, buffering: Sidecar, recorder: Recorder) -> None:
    """The whole answer takes longer than `write_timeout`, but each 64 KiB takes less."""
    size = 700 * KIB
    recorder.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, Zeros(size))
    with RawClient(buffering.port, receive_buffer_bytes=4096) as slow:
        slow.send(request("/slow", *(["Connection: close"] if closing else [])))
        slow.head()
        left = size
        while left:
            left -= len(slow.read(min(left, 35 * KIB)))
            time.sleep(0.1)


@pytest.mark.slow
def test_a_reader_that_stops_is_cut_off(buffering: Sidecar, recorder: Recorder) -> None:
    size = 30_000 * KIB  # more than the kernel takes
    recorder.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, Zeros(size))
    with RawClient(buffering.port, receive_buffer_bytes=4096) as stalled:
        stalled.send(request("/stalled"))
        recorder.wait_for(1)
        eventually(lambda: get(buffering.port).status == 200, "a free connection")
        assert not stalled.reply().complete
    eventually(lambda: scrape(buffering, "sidegate_buffered_bytes") == 0, "an empty buffer")


@pytest.mark.slow
def test_the_buffers_are_bounded_in_all(store_server: StoreServer, recorder: Recorder) -> None:
    upstream = {"buffer_total": "100KiB", "request_buffer": "64KiB", "max_connections": 8}
    config = configuration(store_server.url, recorder.url, upstream=upstream)
    with Sidecar(config) as sidecar:
        clients = [RawClient(sidecar.port) for _ in range(4)]
        for client in clients:
            client.send(CHUNKED + b"".join(chunks(bytes(40 * KIB), 40 * KIB))[:-5])
        recorder.wait_for(2)  # two of four found no room: they are passed on as they come
        assert len(recorder.requests) == 2
        assert scrape(sidecar, "sidegate_buffered_bytes") <= 100 * KIB
        assert scrape(sidecar, "sidegate_buffer_exhausted_total") >= 2
        for client in clients:
            client.send(b"0\r\n\r\n")
            assert client.reply().status == 200
            client.__exit__(None, None, None)
        assert scrape(sidecar, "sidegate_buffered_bytes") == 0
    assert sorted(len(received.body) for received in recorder.requests) == [40 * KIB] * 4


@pytest.mark.slow
def test_without_a_buffer_a_request_is_sent_before_its_body(store_server: StoreServer, recorder: Recorder) -> None:
    recorder.always(OK, body=ReadBody.NONE)
    config = configuration(store_server.url, recorder.url, upstream={"request_buffer": 0})
    with Sidecar(config) as sidecar, RawClient(sidecar.port) as client:
        client.send(CHUNKED)
        assert client.reply().status == 200
    assert recorder.only().values("transfer-encoding") == [b"chunked"]


@pytest.mark.slow
def test_an_event_stream_passes_at_once(buffering: Sidecar, recorder: Recorder) -> None:
    recorder.answer(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"7\r\ndata: 1\r\n",
        0.2,
        b"7\r\ndata: 2\r\n0\r\n\r\n",
    )
    with RawClient(buffering.port) as client:
        client.send(request("/events"))
        client.head()
        assert client.chunk() == b"data: 1"
        assert client.chunk() == b"data: 2"
