"""Limits on requests under way, through sidecar processes that share one store."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.admin.admin_client import ask as admin_page
from tests.raw_client import Broken, RawClient, Reply, get, request
from tests.recorder import OK, Act, Recorder, Zeros, eventually
from tests.servers import StoreServer
from tests.sidecar import PREFIX, Sidecar, configuration, run_command

BUSY: dict[str, object] = {
    "name": "busy",
    "match": {"path": "/api/**"},
    "key": "header:X-User-ID",
    "in_flight": 2,
    "overrides": [{"key": "vip", "in_flight": 4}, {"key": "free", "exempt": True}],
}
RATE: dict[str, object] = {
    "name": "rate",
    "match": {"header": {"X-Rate": True}},
    "key": "header:X-Rate",
    "limit": "3/day",
}
TRIAL: dict[str, object] = {
    "name": "trial",
    "match": {"path": "/trial"},
    "key": "header:X-User-ID",
    "in_flight": 1,
    "shadow": True,
}
HANDSHAKE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
UPGRADE = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAA")


@pytest.fixture(scope="module")
def shared_sidecars(shared_store_server: StoreServer, shared_recorder: Recorder) -> Iterator[list[Sidecar]]:
    def config() -> Any:
        return configuration(shared_store_server.url, shared_recorder.url, policies=[BUSY, RATE, TRIAL])

    with Sidecar(config()) as first, Sidecar(config()) as second:
        yield [first, second]


@pytest.fixture
def sidecars(store_server: StoreServer, recorder: Recorder, shared_sidecars: list[Sidecar]) -> list[Sidecar]:
    """Two sidecars with an empty store. Each test uses its own users."""
    return shared_sidecars


def places(store: StoreServer, user: str, policy: str = "busy") -> int:
    client: Any = store.client
    return int(client.zcard(f"{PREFIX}{policy}/in_flight:{user}"))


def begin(sidecar: Sidecar, user: str, *fields: str, target: str = "/api/a") -> RawClient:
    client = RawClient(sidecar.port)
    client.send(request(target, f"X-User-ID: {user}", *fields))
    return client


def ask(sidecar: Sidecar, user: str, *fields: str, target: str = "/api/a") -> Reply:
    return get(sidecar.port, target, f"X-User-ID: {user}", *fields)


def test_requests_under_way_in_all_sidecars_together_stay_within_the_limit(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    recorder.always(Act.HOLD, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    with begin(sidecars[0], "alice") as first, begin(sidecars[1], "alice") as second:
        recorder.wait_for(2)
        refused = ask(sidecars[0], "alice")
        assert (refused.status, refused.value("Retry-After")) == (429, "1")
        assert refused.value("RateLimit-Policy") == '"busy";q=2;qu="concurrent-requests"'
        assert refused.value("RateLimit") == '"busy";r=0'
        assert (refused.value("X-RateLimit-Remaining"), refused.value("X-RateLimit-Reset")) == ("0", "1")
        assert places(store_server, "alice") == 2
        recorder.release()
        replies = [first.reply(), second.reply()]
    assert sorted(reply.value("RateLimit") for reply in replies) == ['"busy";r=0', '"busy";r=1']
    entries = [each for sidecar in sidecars for each in admin_page(sidecar, "/top")[2]["refused"]]
    found = [(each["policy"], each["key"], each["bucket"]) for each in entries]
    assert ("busy", "alice", f"{PREFIX}busy/in_flight:alice") in found
    eventually(lambda: places(store_server, "alice") == 0, "no places in use")
    assert not store_server.client.exists(f"{PREFIX}busy/in_flight:alice")


def test_a_place_that_this_sidecar_frees_can_be_taken_at_once(sidecars: list[Sidecar], recorder: Recorder) -> None:
    """One client after the other: a refusal from before is not remembered."""
    recorder.answer(Act.HOLD, OK)
    recorder.answer(Act.HOLD, OK)
    with begin(sidecars[0], "bob"), begin(sidecars[0], "bob") as second:
        recorder.wait_for(2)
        for _ in range(20):
            assert ask(sidecars[0], "bob").status == 429
        recorder.release()
        assert second.reply().status == 200
        eventually(lambda: ask(sidecars[0], "bob").status == 200, "a free place")
        for _ in range(20):
            assert ask(sidecars[0], "bob").status == 200


@pytest.mark.parametrize("end", ["answer", "abort", "application closes", "broken answer", "bad gateway"])
def test_every_end_of_a_request_frees_its_place(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer, end: str
) -> None:
    user = end.replace(" ", "-")
    steps: dict[str, tuple[Any, ...]] = {
        "application closes": (Act.CLOSE,),
        "broken answer": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", Act.CLOSE),
        "bad gateway": (b"nonsense\r\n\r\n",),
        "abort": (Act.HOLD,),
    }
    for _ in range(3):
        recorder.always(*steps.get(end, (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",)))
        before = len(recorder.requests)
        with begin(sidecars[0], user) as client:
            recorder.wait_for(before + 1)
            if end == "abort":
                client.reset()
                recorder.close_all()
            else:
                with contextlib.suppress(Broken):
                    _ = client.rest() if end == "broken answer" else client.reply()
        eventually(lambda: places(store_server, user) == 0, "no places in use")


def test_a_websocket_keeps_its_place_until_it_ends(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    recorder.always(HANDSHAKE, Act.ECHO)
    with begin(sidecars[0], "socket", *UPGRADE) as client:
        assert client.reply().status == 101
        client.send(b"hello")
        assert client.read(5) == b"hello"
        assert places(store_server, "socket") == 1
    eventually(lambda: places(store_server, "socket") == 0, "no places in use")


def test_a_refusal_by_another_policy_takes_no_place_and_a_full_policy_no_tokens(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    recorder.always(Act.HOLD)
    with begin(sidecars[0], "both", "X-Rate: both"), begin(sidecars[0], "both", "X-Rate: both"):
        recorder.wait_for(2)
        assert ask(sidecars[1], "both", "X-Rate: both").json()["violated-policies"] == ["busy"]
        assert store_server.client.hget(f"{PREFIX}rate:both", "tokens") == b"1"
        recorder.close_all()
    eventually(lambda: places(store_server, "both") == 0, "no places in use")
    recorder.always(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    # The other sidecar may remember the refusal for 0.1 s.
    eventually(lambda: ask(sidecars[1], "both", "X-Rate: both").status == 200, "a free place")
    reply = ask(sidecars[1], "both", "X-Rate: both")
    assert reply.json()["violated-policies"] == ["rate"]
    assert '"rate";r=0;t=' in reply.value("RateLimit")
    eventually(lambda: places(store_server, "both") == 0, "no places in use")


def test_overrides_and_shadows_apply_to_requests_under_way(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    recorder.always(Act.HOLD)
    clients = [begin(sidecars[number % 2], "vip") for number in range(4)]
    clients += [begin(sidecars[0], "free") for _ in range(3)]
    clients += [begin(sidecars[0], "shady", target="/trial") for _ in range(3)]
    try:
        recorder.wait_for(10)
        assert ask(sidecars[0], "vip").status == 429
        assert places(store_server, "shady", "trial") == 1
    finally:
        for client in clients:
            client.reset()
        recorder.close_all()
    eventually(lambda: places(store_server, "vip") + places(store_server, "shady", "trial") == 0, "no places in use")


def test_the_store_shows_places_and_the_admin_api_shows_and_resets_them(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    recorder.always(Act.HOLD)
    with begin(sidecars[0], "shown"):
        recorder.wait_for(1)
        _, _, shown = admin_page(sidecars[0], "/buckets/busy/shown")
        assert (shown["stored"], shown["in_flight"], shown["limit"]) == (True, 1, {"in_flight": 2})
        ((entry,), _) = admin_page(sidecars[0], "/buckets?policy=busy&q=shown")[2].values()
        assert (entry["key"], entry["in_flight"], entry["tokens_at_last_charge"]) == ("shown", 1, None)
        assert b'sidegate_places{policy="busy"} 1.0' in admin_page(sidecars[0], "/metrics")[2]
        shown = run_command("status", *(f"--admin=http://127.0.0.1:{each.admin_port}" for each in sidecars))
        assert "places in use: busy 1" in shown.stdout.splitlines()
        policy = admin_page(sidecars[0], "/policies")[2]["policies"][0]
        assert (policy["in_flight"], policy["under_way"], policy["limit_text"]) == (2, 1, "2 in flight")
        status = get(sidecars[0].port, "/api/status", "X-User-ID: shown").json()["policies"][0]
        assert (status["in_flight"], status["remaining"]) == (2, 1)
        assert places(store_server, "shown") == 1
        assert admin_page(sidecars[0], "/buckets/busy/shown", method="DELETE")[2]["reset"] is True
        recorder.close_all()
    eventually(lambda: places(store_server, "shown") == 0, "no places in use")


@pytest.mark.slow
@pytest.mark.long
def test_places_of_long_requests_are_renewed_and_those_of_a_killed_sidecar_are_free_within_ten_seconds(
    own_store_server: StoreServer, recorder: Recorder
) -> None:
    recorder.always(Act.HOLD)
    config = configuration(own_store_server.url, recorder.url, policies=[BUSY])
    other = configuration(own_store_server.url, recorder.url, policies=[BUSY])
    with Sidecar(config) as steady, Sidecar(other) as doomed:
        doomed.may_complain = True
        with begin(steady, "long"), begin(doomed, "long"):
            recorder.wait_for(2)
            assert ask(steady, "long").status == 429
            killed_s = time.monotonic()
            os.kill(doomed.pid, signal.SIGKILL)
            recorder.always(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            eventually(lambda: ask(steady, "long").status == 200, "a free place")
            assert time.monotonic() - killed_s < 10.5
            time.sleep(max(0.0, killed_s + 11 - time.monotonic()))
            assert places(own_store_server, "long") == 1  # of the steady one, renewed meanwhile
        # A store that lost its data knows of a place again within seconds.
        recorder.always(Act.HOLD)
        with begin(steady, "lost"):
            eventually(lambda: places(own_store_server, "lost") == 1, "a place")
            own_store_server.client.flushall()
            eventually(lambda: places(own_store_server, "lost") == 1, "a place")


def test_a_drain_frees_all_places(own_store_server: StoreServer, recorder: Recorder) -> None:
    recorder.always(Act.HOLD)
    config = configuration(own_store_server.url, recorder.url, policies=[BUSY], listen={"drain_timeout": "100ms"})
    with Sidecar(config) as sidecar, begin(sidecar, "drained"):
        recorder.wait_for(1)
        assert places(own_store_server, "drained") == 1
        sidecar.ask_to_stop()
        sidecar.wait()
    assert places(own_store_server, "drained") == 0


@pytest.mark.parametrize("mode", ["allow", "local", "deny"])
def test_while_the_store_is_away_the_failure_mode_decides(
    own_store_server: StoreServer, recorder: Recorder, mode: str
) -> None:
    recorder.always(Act.HOLD)
    policy = {**BUSY, "on_store_failure": mode}
    store = {"timeout": "200ms", "replicas": 2}
    with Sidecar(configuration(own_store_server.url, recorder.url, policies=[policy], store=store)) as sidecar:
        own_store_server.kill()
        sidecar.wait_for_event("store_unavailable")
        clients: list[RawClient] = []
        try:
            if mode == "deny":
                assert ask(sidecar, "away").status == 503
                return
            clients.append(begin(sidecar, "away"))  # the share of two proxies is one place
            recorder.wait_for(1)
            if mode == "local":
                assert ask(sidecar, "away").status == 429
            else:
                clients.append(begin(sidecar, "away"))
                recorder.wait_for(2)
            own_store_server.start()
            # What was admitted without the store counts as soon as the store is back.
            eventually(lambda: places(own_store_server, "away") == len(clients), "places in the store")
        finally:
            for client in clients:
                client.reset()
            recorder.close_all()
        eventually(lambda: places(own_store_server, "away") == 0, "no places in use")


# -- clients that leave ------------------------------------------------------------------------------------------------


def abandoned(sidecar: Sidecar) -> bytes:
    page: bytes = admin_page(sidecar, "/metrics")[2]
    return page.partition(b"\nsidegate_requests_abandoned ")[2].partition(b"\n")[0]


def test_a_request_keeps_its_place_after_its_client_has_left_until_the_application_has_answered(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    recorder.always(Act.HOLD, OK)
    with begin(sidecars[0], "gone") as first, begin(sidecars[0], "gone") as second:
        connections = {each.connection for each in recorder.wait_for(2)}
        first.reset()
        second.reset()
        eventually(lambda: abandoned(sidecars[0]) == b"2.0", "two requests without clients")
        assert ask(sidecars[1], "gone").status == 429
        assert places(store_server, "gone") == 2
        recorder.release()
        eventually(lambda: places(store_server, "gone") == 0, "no places in use")
    # Nothing was closed: the next request uses one of the connections.
    assert ask(sidecars[0], "gone").status == 200
    assert recorder.requests[-1].connection in connections


def test_an_application_whose_answer_has_begun_notices_that_the_client_has_left(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    recorder.always(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", Act.HOLD)
    with begin(sidecars[0], "half") as client:
        assert client.head().status == 200
        assert places(store_server, "half") == 1
    eventually(lambda: not recorder.open, "the application has closed its connection")
    eventually(lambda: places(store_server, "half") == 0, "no places in use")


def test_an_endless_answer_without_its_client_ends(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    """The application writes and never looks; what it writes is not read for good."""
    recorder.always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Zeros(2**40, chunked=True))
    with begin(sidecars[0], "endless") as client:
        assert client.head().status == 200
    eventually(lambda: places(store_server, "endless") == 0, "no places in use")
    eventually(lambda: not recorder.open, "the connection to the application is closed")


def test_a_request_that_timed_out_keeps_its_place_for_the_abandoned_timeout(
    store_server: StoreServer, recorder: Recorder
) -> None:
    recorder.always(Act.HOLD)
    for timeout, stays in (("20s", True), ("0s", False), ("50ms", False)):
        upstream = {"abandoned_timeout": timeout, "response_timeout": "50ms"}
        config = configuration(store_server.url, recorder.url, policies=[BUSY], upstream=upstream)
        with Sidecar(config) as sidecar:
            assert ask(sidecar, f"late-{timeout}").status == 504
            if stays:
                assert places(store_server, f"late-{timeout}") == 1
                recorder.close_all()
            eventually(lambda t=timeout: places(store_server, f"late-{t}") == 0, "no places")  # type: ignore[misc]
            eventually(lambda: not recorder.open, "the connection to the application is closed")
