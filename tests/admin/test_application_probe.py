"""Readiness goes by the application's own health where `upstream.health` names a path."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.admin.admin_client import ask
from tests.raw_client import get
from tests.recorder import OK, Act, Recorder, Step, eventually
from tests.servers import StoreServer
from tests.sidecar import Sidecar, configuration, spent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def application() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.stop()


@pytest.fixture(scope="module")
def shared(shared_store_server: StoreServer, application: Recorder) -> Iterator[Sidecar]:
    health = {"path": "/healthz?deep=1", "interval": "10ms", "timeout": "200ms"}
    config = configuration(
        shared_store_server.url, application.url, upstream={"health": health}, log={"requests": "all"}
    )
    with Sidecar(config) as sidecar:
        yield sidecar


@pytest.fixture
def sidecar(store_server: StoreServer, application: Recorder, shared: Sidecar) -> Sidecar:
    application.reset()
    return shared


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        ((Act.HOLD,), "down", "did not answer within 0.2 s"),
        ((b"HTTP/1.1 200",), "down", "did not answer within 0.2 s"),
        (
            (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",),
            "failing",
            "GET /healthz?deep=1 was answered 500 by 127.0.0.1:",
        ),
        ((b"HTTP/1.1 404 No\r\n",), "failing", "was answered 404"),
        ((b"nonsense\r\n",), "failing", "got no HTTP answer"),
        ((b"x" * 5000,), "failing", "got no HTTP answer"),
        ((Act.CLOSE,), "failing", "got no HTTP answer"),
        ((Act.RESET,), "down", "127.0.0.1:"),
    ],
)
def test_an_application_that_is_not_well_makes_the_sidecar_unready(
    answer: tuple[Step, ...], state: str, reason: str, sidecar: Sidecar, application: Recorder
) -> None:
    application.always(OK)
    eventually(lambda: ask(sidecar, "/readyz")[0] == 200, "a ready sidecar")
    changes = len(sidecar.events("application_unhealthy"))
    application.always(*answer)
    eventually(lambda: ask(sidecar, "/readyz")[0] == 503, "an unready sidecar")
    eventually(lambda: reason in ask(sidecar, "/readyz")[2]["app"].get("reason", ""), reason)
    assert get(sidecar.port, "/health").status == 503
    sidecar.wait_for_event("application_unhealthy", changes + 1)
    eventually(lambda: overview(sidecar)["application"]["state"] == state, f"the state {state}")
    eventually(lambda: reason in overview(sidecar)["problem"]["text"], "the problem")
    application.always(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n")
    application.release()
    eventually(lambda: ask(sidecar, "/readyz")[0] == 200, "a ready sidecar again")
    sidecar.wait_for_event("application_healthy", changes + 1)


def test_a_failing_health_check_is_shown_while_requests_are_answered(sidecar: Sidecar, application: Recorder) -> None:
    application.always(OK)
    eventually(lambda: overview(sidecar)["application"]["state"] == "up", "the state up")
    application.always(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")  # counts as an answer, no failure

    def is_shown() -> bool:
        assert get(sidecar.port, "/x").status == 404
        return str(overview(sidecar)["application"]["state"]) == "failing"

    eventually(is_shown, "the state failing")


def overview(sidecar: Sidecar) -> dict[str, Any]:
    found: dict[str, Any] = ask(sidecar, "/overview")[2]
    return found


def test_a_probe_is_neither_limited_nor_counted(
    sidecar: Sidecar, application: Recorder, store_server: StoreServer
) -> None:
    application.always(OK)
    before = ask(sidecar, "/metrics")[2]
    eventually(lambda: ask(sidecar, "/readyz")[0] == 200 and len(application.requests) > 1, "two probes")
    probe = application.requests[0]
    assert (probe.method, probe.target, probe.value("connection")) == ("GET", b"/healthz?deep=1", b"close")
    assert spent(store_server) == {}
    counted = [line for line in ask(sidecar, "/metrics")[2].splitlines() if line.startswith(b"sidegate_requests_total")]
    assert counted == [line for line in before.splitlines() if line.startswith(b"sidegate_requests_total")]
    assert not [line for line in sidecar.events("request") if "/healthz" in str(line)]


def test_without_a_path_an_application_is_well_that_accepts_connections(store_server: StoreServer) -> None:
    recorder = Recorder()
    recorder.always(Act.HOLD)
    with Sidecar(configuration(store_server.url, recorder.url)) as sidecar:
        assert ask(sidecar, "/readyz")[0] == 200
    assert recorder.requests == []
    recorder.stop()
