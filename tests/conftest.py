"""Fixtures for store servers and the application, the profiles of hypothesis, and the markers `speed` and `patches`."""

import os
import signal
import sys
from collections.abc import Callable, Iterator

import pytest
import sidegate
from hypothesis import HealthCheck, settings

from tests.recorder import Recorder
from tests.servers import StoreServer

# No deadlines: a busy machine must not fail a test. Each run uses the same examples; SIDEGATE_TEST_SEARCH=1 tries new ones.
# All examples of a test share its store fixture: each example uses its own keys or empties the store.
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

# A run in the background of a script ignores SIGINT, and so would the commands that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A tracer (coverage, a debugger) makes code several times slower.
_TRACED = sys.gettrace() is not None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if _TRACED and item.get_closest_marker("speed"):
        pytest.skip("a tracer is active, and this test bounds the time that code takes")
    if item.get_closest_marker("patches") and sidegate.build() == "compiled":
        pytest.skip("compiled callers do not look up the methods that this test replaces")


def pytest_report_header() -> str:
    return f"sidegate {sidegate.__version__} ({sidegate.build()})"


StartStore = Callable[..., StoreServer]


@pytest.fixture(scope="session")
def shared_store_server() -> Iterator[StoreServer]:
    server = StoreServer()
    yield server
    server.stop()


@pytest.fixture
def store_server(shared_store_server: StoreServer) -> StoreServer:
    """A store server shared by many tests, empty at the start of each test. Do not stop, pause or reconfigure it."""
    shared_store_server.client.flushall()
    shared_store_server.client.script_flush()
    shared_store_server.client.config_resetstat()
    return shared_store_server


@pytest.fixture
def start_store() -> Iterator[StartStore]:
    """Starts store servers for one test, which may stop, pause, kill and reconfigure them."""
    servers: list[StoreServer] = []

    def start(*options: str, password: str | None = None) -> StoreServer:
        servers.append(StoreServer(*options, password=password))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def own_store_server(start_store: StartStore) -> StoreServer:
    """A store server for one test."""
    return start_store()


@pytest.fixture(scope="module")
def shared_recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.stop()


@pytest.fixture
def recorder(shared_recorder: Recorder) -> Iterator[Recorder]:
    """The application: records, and answers as told. Whatever clients send, it must never see a doubtful request."""
    shared_recorder.reset()
    yield shared_recorder
    shared_recorder.release()
    assert shared_recorder.faults == []
