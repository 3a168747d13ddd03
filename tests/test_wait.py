"""Requests that wait for tokens, through sidecar processes that share one store."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import yaml

from tests.admin.admin_client import ask as admin_page
from tests.raw_client import RawClient, Reply, get, request
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer
from tests.sidecar import PREFIX, Sidecar, configuration

QUICK: dict[str, object] = {
    "name": "quick",
    "match": {"path": "/quick"},
    "key": "header:X-User-ID",
    "limit": "100/s",
    "burst": 1,
    "wait": "1s",
}
SLOW: dict[str, object] = {**QUICK, "name": "slow", "match": {"path": "/slow"}, "limit": "1/10s", "wait": "25s"}
EVEN: dict[str, object] = {**QUICK, "name": "even", "match": {"path": "/even"}, "limit": "5/s", "wait": "20s"}


@pytest.fixture(scope="module")
def shared_sidecars(shared_store_server: StoreServer, shared_recorder: Recorder) -> Iterator[list[Sidecar]]:
    def config() -> Any:
        return configuration(
            shared_store_server.url, shared_recorder.url, policies=[QUICK, SLOW, EVEN], listen={"max_waiting": 40}
        )

    with Sidecar(config()) as first, Sidecar(config()) as second, Sidecar(config()) as third:
        yield [first, second, third]


@pytest.fixture
def sidecars(store_server: StoreServer, recorder: Recorder, shared_sidecars: list[Sidecar]) -> list[Sidecar]:
    """Three sidecars with an empty store. Each test uses its own users."""
    return shared_sidecars


def tokens(store: StoreServer, policy: str, user: str) -> int:
    client: Any = store.client
    return int(client.hget(f"{PREFIX}{policy}:{user}", "tokens") or 0)


def ask(sidecar: Sidecar, user: str, target: str) -> Reply:
    return get(sidecar.port, target, f"X-User-ID: {user}")


def begin(sidecar: Sidecar, user: str, target: str = "/slow") -> RawClient:
    client = RawClient(sidecar.port)
    client.send(request(target, f"X-User-ID: {user}"))
    return client


def test_fifty_clients_depart_at_the_rate_and_none_is_refused(sidecars: list[Sidecar], recorder: Recorder) -> None:
    begun_s = time.monotonic()
    with ThreadPoolExecutor(50) as pool:
        replies = list(pool.map(lambda number: ask(sidecars[number % 3], "fifty", "/quick"), range(50)))
    took_s = time.monotonic() - begun_s
    assert {reply.status for reply in replies} == {200}
    assert len(recorder.requests) == 50
    assert took_s >= 0.49  # the first at once, then one every 10 ms


def test_requests_of_a_key_depart_in_the_order_of_their_arrival(sidecars: list[Sidecar], recorder: Recorder) -> None:
    with ExitStack() as stack:
        clients = []
        for number in range(6):
            clients.append(stack.enter_context(begin(sidecars[number % 3], "ordered", f"/even?{number}")))
            eventually(lambda n=number: decided(sidecars, recorder) > n, "its decision")  # type: ignore[misc]
        assert [client.reply().status for client in clients] == [200] * 6
    assert [each.target for each in recorder.requests] == [b"/even?%d" % number for number in range(6)]


@pytest.mark.slow
def test_an_edit_leaves_the_time_of_those_that_wait(store_server: StoreServer, recorder: Recorder) -> None:
    before = {**SLOW, "limit": "1/3s"}
    config = configuration(store_server.url, recorder.url, policies=[before])
    with Sidecar(config) as sidecar:
        assert ask(sidecar, "edited", "/slow").status == 200
        with begin(sidecar, "edited") as client:
            eventually(lambda: b"sidegate_requests_waiting 1.0" in metrics(sidecar), "a request that waits")
            config["policies"] = [{**before, "limit": "1/day", "wait": "1ms"}]
            sidecar.config_file.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
            sidecar.wait_for_event("config_reloaded")
            assert client.reply().status == 200
        assert ask(sidecar, "edited", "/slow").status == 429


def test_the_body_of_a_request_that_waits_is_not_read(store_server: StoreServer, recorder: Recorder) -> None:
    config = configuration(store_server.url, recorder.url, policies=[SLOW], listen={"drain_timeout": "1s"})
    with Sidecar(config) as sidecar, RawClient(sidecar.port) as client, ThreadPoolExecutor(1) as pool:
        assert ask(sidecar, "sender", "/slow").status == 200
        whole = request("/slow", "X-User-ID: sender", method="POST", body=bytes(64 * 1024 * 1024))
        sending = pool.submit(client.send, whole)
        eventually(lambda: b"sidegate_requests_waiting 1.0" in metrics(sidecar), "a request that waits")
        assert not sending.done()
        sidecar.ask_to_stop()
        assert client.reply().status == 429
        sidecar.wait()


def test_what_would_wait_too_long_is_refused_with_a_time_that_holds(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    clients = []
    for left in (0, -1, -2):  # the first departs at once, then after 10 s and 20 s
        clients.append(begin(sidecars[0], "queue"))
        eventually(lambda left=left: tokens(store_server, "slow", "queue") == left, "a booking")  # type: ignore[misc]
    refused = ask(sidecars[1], "queue", "/slow")
    # After 5 s, the next one would wait for 25 s.
    assert (refused.status, refused.value("Retry-After"), refused.value("X-RateLimit-Remaining")) == (429, "5", "0")
    assert tokens(store_server, "slow", "queue") == -2
    assert len(recorder.requests) == 1
    for client in clients:
        client.reset()


@pytest.mark.slow
def test_a_request_that_comes_after_retry_after_is_accepted_to_wait(
    store_server: StoreServer, recorder: Recorder
) -> None:
    config = configuration(store_server.url, recorder.url, policies=[{**SLOW, "limit": "1/s", "wait": "1s"}])
    with Sidecar(config) as sidecar, ThreadPoolExecutor(6) as pool:
        first = pool.map(lambda _: ask(sidecar, "patient", "/slow"), range(6))
        refused = [reply for reply in first if reply.status == 429]
        assert {reply.value("Retry-After") for reply in refused} == {"1"}
        time.sleep(1)
        assert ask(sidecar, "patient", "/slow").status == 200


def test_a_client_that_leaves_gives_its_booking_back_if_nobody_booked_behind_it(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    assert ask(sidecars[0], "leaver", "/slow").status == 200
    first = begin(sidecars[0], "leaver")
    eventually(lambda: tokens(store_server, "slow", "leaver") == -1, "a booking")
    second = begin(sidecars[1], "leaver")
    eventually(lambda: tokens(store_server, "slow", "leaver") == -2, "two bookings")
    first.reset()  # stays charged: the second one waits behind it
    eventually(lambda: b"sidegate_requests_waiting 0.0" in metrics(sidecars[0]), "nobody waits")
    assert tokens(store_server, "slow", "leaver") == -2
    second.reset()
    eventually(lambda: tokens(store_server, "slow", "leaver") == -1, "a booking given back")
    assert len(recorder.requests) == 1


def test_beyond_the_most_that_may_wait_requests_are_refused_and_book_nothing(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    for user in range(40):
        assert ask(sidecars[2], f"crowd-{user}", "/slow").status == 200
    clients = [begin(sidecars[2], f"crowd-{user}") for user in range(40)]
    eventually(lambda: b"sidegate_requests_waiting 40.0" in metrics(sidecars[2]), "40 waiting requests")
    assert ask(sidecars[2], "crowd-0", "/slow").status == 429
    assert tokens(store_server, "slow", "crowd-0") == -1
    assert ask(sidecars[2], "another", "/slow").status == 200  # it has tokens
    for client in clients:
        client.reset()
    eventually(lambda: b"sidegate_requests_waiting 0.0" in metrics(sidecars[2]), "nobody waits")


def test_a_drain_refuses_what_would_wait_beyond_it_and_lets_the_others_depart(
    store_server: StoreServer, recorder: Recorder
) -> None:
    policies = [{**SLOW, "limit": "2/s", "wait": "1s", "match": {"path": "/soon"}, "name": "soon"}, SLOW]
    config = configuration(store_server.url, recorder.url, policies=policies, listen={"drain_timeout": "5s"})
    with Sidecar(config) as sidecar:
        assert [ask(sidecar, "d", target).status for target in ("/slow", "/soon")] == [200, 200]
        with begin(sidecar, "d") as late, begin(sidecar, "d", "/soon") as soon:
            eventually(lambda: b"sidegate_requests_waiting 2.0" in metrics(sidecar), "two waiting requests")
            sidecar.ask_to_stop()
            assert (late.reply().status, soon.reply().status) == (429, 200)
            sidecar.wait()


def metrics(sidecar: Sidecar) -> bytes:
    content: bytes = admin_page(sidecar, "/metrics")[2]
    return content


def decided(sidecars: list[Sidecar], recorder: Recorder) -> int:
    """Requests that wait in one of the sidecars, or that the application has."""
    at_the_application = len(recorder.requests)  # before the others: a request that departs is not counted twice
    lines = [line for each in sidecars for line in metrics(each).splitlines()]
    waiting = sum(float(line.split()[1]) for line in lines if line.startswith(b"sidegate_requests_waiting "))
    return at_the_application + int(waiting)
