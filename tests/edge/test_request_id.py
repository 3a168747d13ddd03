"""Request ids and trace context through a real sidecar: to the application, in the answer, and in the log."""

import re
from collections.abc import Iterator

import pytest

from tests.raw_client import RawClient, Reply, get
from tests.recorder import Act, Recorder, eventually
from tests.servers import StoreServer
from tests.sidecar import Sidecar, configuration

MADE = re.compile("[0-9a-f]{32}")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def shared_identifying_sidecar(shared_store_server: StoreServer, shared_recorder: Recorder) -> Iterator[Sidecar]:
    config = configuration(
        shared_store_server.url,
        shared_recorder.url,
        listen={"request_id_header": "X-Request-ID"},
        log={"requests": "all"},
    )
    with Sidecar(config) as sidecar:
        yield sidecar


@pytest.fixture
def identifying(store_server: StoreServer, recorder: Recorder, shared_identifying_sidecar: Sidecar) -> Sidecar:
    """A sidecar whose requests have ids."""
    return shared_identifying_sidecar


def logged(sidecar: Sidecar, request_id: str) -> list[int]:
    """The statuses of the log's lines with this id."""

    def statuses() -> list[int]:
        return [line["status"] for line in list(sidecar.lines) if line.get("request_id") == request_id]

    eventually(statuses, f"a log line of {request_id}")
    return statuses()


def test_a_request_without_id_gets_the_same_id_at_application_client_and_log(
    identifying: Sidecar, recorder: Recorder
) -> None:
    first, second = get(identifying.port).value("X-Request-ID"), get(identifying.port).value("X-Request-ID")
    assert MADE.fullmatch(first)
    assert MADE.fullmatch(second)
    assert first != second
    assert [request.value("x-request-id").decode() for request in recorder.requests] == [first, second]
    assert logged(identifying, first) == [200]


@pytest.mark.parametrize("own", ["a", "Root=1-67891233-abcdef012345678912345678", "me@host/~x:1+2_3.4", "x" * 128])
def test_an_id_of_the_clients_own_is_kept(own: str, identifying: Sidecar, recorder: Recorder) -> None:
    assert get(identifying.port, "/", f"x-request-id: {own}").value("X-Request-ID") == own
    assert recorder.only().value("x-request-id").decode() == own
    assert logged(identifying, own) == [200]


@pytest.mark.parametrize(
    "fields",
    [
        ["X-Request-ID: "],
        ["X-Request-ID: a b"],
        ["X-Request-ID: a,b"],
        ['X-Request-ID: {"a"}'],
        ["X-Request-ID: é"],
        [f"X-Request-ID: {'x' * 129}"],
        ["X-Request-ID: a", "X-Request-ID: b"],
    ],
)
def test_an_invalid_request_id_is_replaced(fields: list[str], identifying: Sidecar, recorder: Recorder) -> None:
    made = get(identifying.port, "/", *fields).value("X-Request-ID")
    assert MADE.fullmatch(made)
    assert recorder.only().value("x-request-id").decode() == made


def test_naming_the_id_in_connection_does_not_remove_it(identifying: Sidecar, recorder: Recorder) -> None:
    assert get(identifying.port, "/", "X-Request-ID: a", "Connection: X-Request-ID").value("X-Request-ID") == "a"
    assert recorder.only().value("x-request-id") == b"a"


def test_the_applications_answer_carries_the_requests_id_and_no_other(identifying: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.1 200 OK\r\nX-Request-Id: theirs\r\nContent-Length: 0\r\n\r\n")
    assert get(identifying.port, "/", "X-Request-ID: ours").value("X-Request-ID") == "ours"


def test_a_refused_request_gets_its_id_too(identifying: Sidecar) -> None:
    def refused() -> Reply:
        return get(identifying.port, "/tight/a", "X-User-ID: ann", "X-Request-ID: refused-1")

    assert [refused().status, refused().status] == [200, 200]
    reply = refused()
    assert (reply.status, reply.value("X-Request-ID")) == (429, "refused-1")
    eventually(lambda: 429 in logged(identifying, "refused-1"), "the refusal's line")


def test_an_answer_for_an_application_that_breaks_off_carries_the_id(identifying: Sidecar, recorder: Recorder) -> None:
    recorder.answer(Act.CLOSE)
    reply = get(identifying.port, "/", "X-Request-ID: broken-1", method="POST")
    assert (reply.status, reply.value("X-Request-ID")) == (502, "broken-1")
    assert logged(identifying, "broken-1") == [502]


def test_a_websocket_handshake_carries_the_id(identifying: Sidecar, recorder: Recorder) -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Request-ID: b\r\n\r\n"
    recorder.answer(switch, Act.SINK)
    with RawClient(identifying.port) as client:
        reply = client.get("/", "Connection: Upgrade", "Upgrade: websocket", "X-Request-ID: ws-1")
        assert (reply.status, reply.value("X-Request-ID")) == (101, "ws-1")
    assert recorder.only().value("x-request-id") == b"ws-1"


def test_ids_are_passed_on_untouched_where_they_are_not_configured(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.1 200 OK\r\nX-Request-ID: theirs\r\nContent-Length: 0\r\n\r\n")
    assert get(sidecar.port, "/", "X-Request-ID: a b").value("X-Request-ID") == "theirs"
    assert recorder.only().value("x-request-id") == b"a b"
    assert get(sidecar.port).values("X-Request-ID") == []


def test_trace_context_is_passed_on_untouched(sidecar: Sidecar, identifying: Sidecar, recorder: Recorder) -> None:
    for port in (sidecar.port, identifying.port):
        get(port, "/", f"traceparent: {TRACEPARENT}", "tracestate: a=1,b=2", "baggage: c=3")
    for request in recorder.requests:
        assert request.value("traceparent").decode() == TRACEPARENT
        assert (request.value("tracestate"), request.value("baggage")) == (b"a=1,b=2", b"c=3")
