"""Answers sent before their request has ended reach the client: refusals, 413, and early answers of the application.

The rest of the request is received and discarded, bounded by time and never by bytes; lingering connections are closed
to make room for new ones.
"""

import contextlib
import http.client
import time
from collections.abc import Callable, Iterator

import pytest

from tests.raw_client import RawClient, get, request
from tests.recorder import Act, ReadBody, Recorder, eventually
from tests.servers import StoreServer
from tests.sidecar import Sidecar, configuration

MIB = 2**20


@pytest.fixture(scope="module")
def shared_lingering_sidecar(shared_store_server: StoreServer, shared_recorder: Recorder) -> Iterator[Sidecar]:
    listen = {"linger_timeout": "600ms", "max_connections": 3, "max_body_bytes": "8MiB"}
    with Sidecar(configuration(shared_store_server.url, shared_recorder.url, listen=listen)) as sidecar:
        yield sidecar


@pytest.fixture
def lingering_sidecar(store_server: StoreServer, recorder: Recorder, shared_lingering_sidecar: Sidecar) -> Sidecar:
    """A sidecar that lingers for 600 ms and accepts three connections."""
    eventually(lambda: connections(shared_lingering_sidecar) == 0, "the end of earlier connections")
    return shared_lingering_sidecar


def connections(sidecar: Sidecar) -> float:
    """Open client connections, from the metrics."""
    lines = get(sidecar.admin_port, "/metrics").body.decode().splitlines()
    (line,) = [line for line in lines if line.startswith("sidegate_client_connections ")]
    return float(line.split()[1])


def refuse(sidecar: Sidecar, user: str) -> None:
    for _ in range(2):
        assert get(sidecar.port, "/tight/x", f"X-User-ID: {user}").status == 200


@pytest.mark.slow
@pytest.mark.parametrize("size", [300_000, 4 * MIB, 16 * MIB])
def test_http_client_gets_the_refusal_of_an_upload(size: int, sidecar: Sidecar, recorder: Recorder) -> None:
    """http.client writes the whole body before it reads: a reset on the way loses the answer."""
    user = f"uploads-{size}"
    refuse(sidecar, user)
    for _ in range(5):
        client = http.client.HTTPConnection("127.0.0.1", sidecar.port, timeout=20)
        client.request("POST", "/tight/x", body=bytes(size), headers={"X-User-ID": user})
        response = client.getresponse()
        assert response.status == 429
        assert response.read().startswith(b"{")
        client.close()


@pytest.mark.slow
def test_http_client_gets_413(lingering_sidecar: Sidecar, recorder: Recorder) -> None:
    client = http.client.HTTPConnection("127.0.0.1", lingering_sidecar.port, timeout=20)
    client.request("POST", "/", body=bytes(8 * MIB + 1))
    assert client.getresponse().status == 413
    client.close()
    assert recorder.requests == []


@pytest.mark.slow
def test_an_early_answer_of_the_application_arrives_though_it_resets_afterwards(
    sidecar: Sidecar, recorder: Recorder
) -> None:
    early = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"
    for _ in range(20):
        recorder.answer(early, Act.CLOSE, body=ReadBody.NONE)  # closing with unread bytes resets
        client = http.client.HTTPConnection("127.0.0.1", sidecar.port, timeout=20)
        client.request("POST", "/early", body=bytes(2 * MIB))
        response = client.getresponse()
        assert (response.status, response.read()) == (403, b"no")
        client.close()


def drip(client: RawClient, until: Callable[[], bool]) -> None:
    """Send a byte repeatedly until the condition holds."""

    def sent() -> bool:
        client.send(b"x" * 1000)
        return until()

    eventually(sent, "the end of lingering")


def test_lingering_ends_after_its_time_though_the_client_goes_on(lingering_sidecar: Sidecar) -> None:
    refuse(lingering_sidecar, "goes-on")
    with RawClient(lingering_sidecar.port) as client:
        client.send(request("/tight/x", "X-User-ID: goes-on", "Content-Length: 5000000", method="POST"))
        assert client.reply().status == 429
        since_s = time.monotonic()
        drip(client, lambda: connections(lingering_sidecar) == 0)
        assert time.monotonic() >= since_s + 0.4


def test_lingering_connections_make_room_for_new_ones(lingering_sidecar: Sidecar) -> None:
    refuse(lingering_sidecar, "lingers")
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(RawClient(lingering_sidecar.port))
            client.send(request("/tight/x", "X-User-ID: lingers", "Content-Length: 5000000", method="POST"))
            assert client.reply().status == 429
        assert get(lingering_sidecar.port, "/free").status == 200


def test_a_client_that_leaves_ends_the_lingering(lingering_sidecar: Sidecar) -> None:
    refuse(lingering_sidecar, "leaves")
    with RawClient(lingering_sidecar.port) as client:
        client.send(request("/tight/x", "X-User-ID: leaves", "Content-Length: 5000000", method="POST"))
        assert client.reply().status == 429
    eventually(lambda: connections(lingering_sidecar) == 0, "the end of the connection")


@pytest.mark.slow
def test_a_stopping_sidecar_does_not_wait_for_lingering_connections(
    store_server: StoreServer, recorder: Recorder
) -> None:
    with Sidecar(configuration(store_server.url, recorder.url)) as sidecar, RawClient(sidecar.port) as client:
        refuse(sidecar, "stops")
        client.send(request("/tight/x", "X-User-ID: stops", "Content-Length: 50000000", method="POST"))
        assert client.reply().status == 429
        since_s = time.monotonic()
        sidecar.process.terminate()
        assert sidecar.process.wait(20) == 0
        assert time.monotonic() - since_s < 4
