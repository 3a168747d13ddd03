"""One store, one recorder and a few sidecars, shared by all tests of the edge; emptied before each test."""

from collections.abc import Iterator

import pytest

from tests.recorder import Recorder
from tests.servers import StoreServer
from tests.sidecar import Sidecar, configuration


@pytest.fixture(scope="session")
def shared_store_server() -> Iterator[StoreServer]:
    """A store of its own: these sidecars announce themselves in it for the whole session."""
    server = StoreServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.stop()


@pytest.fixture(scope="session")
def shared_sidecar(shared_store_server: StoreServer, shared_recorder: Recorder) -> Iterator[Sidecar]:
    config = configuration(
        shared_store_server.url,
        shared_recorder.url,
        listen={"max_header_bytes": "32KiB"},
        upstream={"request_buffer": 0},
    )
    with Sidecar(config) as sidecar:
        yield sidecar


@pytest.fixture(scope="session")
def shared_impatient_sidecar(shared_store_server: StoreServer, shared_recorder: Recorder) -> Iterator[Sidecar]:
    config = configuration(
        shared_store_server.url,
        shared_recorder.url,
        listen={
            "header_timeout": "200ms",
            "body_timeout": "200ms",
            "idle_timeout": "400ms",
            "write_timeout": "500ms",
            "max_connections": 8,
            "max_body_bytes": "1GiB",
        },
        upstream={
            "request_buffer": 0,
            "connect_timeout": "200ms",
            "response_timeout": "300ms",
            "between_bytes_timeout": "300ms",
            "queue_timeout": "200ms",
            "max_connections": 2,
            "idle_timeout": "500ms",
        },
    )
    with Sidecar(config) as sidecar:
        yield sidecar


@pytest.fixture
def sidecar(store_server: StoreServer, recorder: Recorder, shared_sidecar: Sidecar) -> Sidecar:
    """A sidecar with the default timeouts, before an empty store and `recorder`: the policies `roomy` and `tight`."""
    assert shared_sidecar.process.poll() is None
    return shared_sidecar


@pytest.fixture
def impatient_sidecar(store_server: StoreServer, recorder: Recorder, shared_impatient_sidecar: Sidecar) -> Sidecar:
    """A sidecar with timeouts of a fraction of a second, at most 8 clients and 2 upstream connections."""
    assert shared_impatient_sidecar.process.poll() is None
    return shared_impatient_sidecar
