"""What all tests share: stores, and how hypothesis searches."""

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import StoreServer

# No deadlines: a noisy machine is no fault. Everywhere the same examples; SIDEGATE_TEST_SEARCH=1 searches for new ones.
# A store fixture is shared by all examples of a test on purpose: each example takes keys of its own or empties it.
settings.register_profile(
    "same",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("search", settings.get_profile("same"), derandomize=False, max_examples=2_000)
settings.load_profile("search" if os.environ.get("SIDEGATE_TEST_SEARCH") else "same")

StartStore = Callable[..., StoreServer]


@pytest.fixture(scope="session")
def shared_store_server() -> Iterator[StoreServer]:
    server = StoreServer()
    yield server
    server.stop()


@pytest.fixture
def store_server(shared_store_server: StoreServer) -> StoreServer:
    """A store shared by many tests, empty at the start of each. Do not stop, pause or reconfigure it."""
    shared_store_server.client.flushall()
    shared_store_server.client.script_flush()
    shared_store_server.client.config_resetstat()
    return shared_store_server


@pytest.fixture
def start_store() -> Iterator[StartStore]:
    """Starts stores of the test's own, which it may stop, pause, kill and reconfigure."""
    servers: list[StoreServer] = []

    def start(*options: str, password: str | None = None) -> StoreServer:
        servers.append(StoreServer(*options, password=password))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def own_store_server(start_store: StartStore) -> StoreServer:
    """A store of the test's own."""
    return start_store()
