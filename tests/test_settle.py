"""Costs that the answer settles, through sidecar processes that share one store."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.raw_client import RawClient, get, request
from tests.recorder import Act, Recorder, eventually
from tests.servers import StoreServer
from tests.sidecar import PREFIX, Sidecar, configuration

# All rates are so low that no token grows during a test.
LOGIN: dict[str, object] = {
    "name": "login",
    "match": {"path": "/login", "method": "POST"},
    "key": "header:X-User-ID",
    "limit": "5/day",
    "settle": {"when": [401, "5xx"]},
}
USED: dict[str, object] = {
    "name": "used",
    "match": {"path": "/v1/**"},
    "key": "header:X-User-ID",
    "limit": "100/day",
    "cost": 10,
    "settle": {"header": "X-Tokens-Used"},
}
BODY: dict[str, object] = {
    "name": "body",
    "match": {"path": "/json/**"},
    "key": "header:X-User-ID",
    "limit": "100/day",
    "cost": 10,
    "settle": {"json": "usage.total"},
}
PLAIN: dict[str, object] = {
    "name": "plain",
    "match": {"header": {"X-Tenant": True}},
    "key": "header:X-Tenant",
    "limit": "100/day",
}


@pytest.fixture(scope="module")
def shared_sidecars(shared_store_server: StoreServer, shared_recorder: Recorder) -> Iterator[list[Sidecar]]:
    policies = [LOGIN, USED, BODY, PLAIN]
    config = configuration(shared_store_server.url, shared_recorder.url, policies=policies, log={"requests": "all"})
    other = configuration(shared_store_server.url, shared_recorder.url, policies=policies)
    third = configuration(shared_store_server.url, shared_recorder.url, policies=policies)
    with Sidecar(config) as first, Sidecar(other) as second, Sidecar(third) as last:
        yield [first, second, last]


@pytest.fixture
def sidecars(store_server: StoreServer, recorder: Recorder, shared_sidecars: list[Sidecar]) -> list[Sidecar]:
    """Three sidecars with an empty store. Each test uses its own users, because refusals are cached."""
    return shared_sidecars


def reply(status: int, *lines: str, body: bytes = b"ok") -> bytes:
    head = "".join(f"{line}\r\n" for line in lines)
    return f"HTTP/1.1 {status} Some\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def tokens(store: StoreServer, policy: str, user: str) -> int:
    client: Any = store.client
    return int(client.hget(f"{PREFIX}{policy}:{user}", "tokens"))


def held(store: StoreServer, policy: str, user: str) -> bool:
    return bool(store.client.hexists(f"{PREFIX}{policy}:{user}", "held"))


def settled(store: StoreServer, policy: str, user: str, left: int) -> None:
    """Wait until nothing is held, and so many tokens are left."""
    eventually(
        lambda: not held(store, policy, user) and tokens(store, policy, user) == left,
        f"{left} tokens",
        lambda: str(store.client.hgetall(f"{PREFIX}{policy}:{user}")),
    )


def post(sidecar: Sidecar, user: str, *fields: str) -> Any:
    return get(sidecar.port, "/login", f"X-User-ID: {user}", *fields, method="POST", body=b"password")


def test_of_a_hundred_parallel_wrong_logins_five_reach_the_application(
    sidecars: list[Sidecar], recorder: Recorder
) -> None:
    recorder.always(0.05, reply(401))
    with ThreadPoolExecutor(100) as pool:
        replies = list(pool.map(lambda number: post(sidecars[number % 3], "parallel"), range(100)))
    assert len(recorder.requests) == 5
    assert sorted(each.status for each in replies) == [401] * 5 + [429] * 95


def test_good_logins_one_after_the_other_are_never_refused(sidecars: list[Sidecar], recorder: Recorder) -> None:
    with RawClient(sidecars[0].port) as client:
        for _ in range(200):
            assert client.get("/login", "X-User-ID: good", method="POST", body=b"x").status == 200


def test_a_cost_is_held_until_the_answer_and_then_given_back(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    recorder.always(Act.HOLD, reply(200))
    with RawClient(sidecars[0].port) as client:
        client.send(request("/login", "X-User-ID: holder", method="POST", body=b"x"))
        recorder.wait_for(1)
        assert held(store_server, "login", "holder")
        recorder.release()
        assert client.reply().status == 200
    settled(store_server, "login", "holder", 5)


@pytest.mark.parametrize(("status", "left"), [(401, 4), (503, 4), (403, 5), (302, 5)])
def test_only_the_statuses_of_when_keep_the_cost(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer, status: int, left: int
) -> None:
    recorder.always(reply(status))
    assert post(sidecars[0], f"kept-{status}").status == status
    settled(store_server, "login", f"kept-{status}", left)


def test_a_client_that_leaves_and_an_application_that_fails_keep_the_cost(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    recorder.always(Act.HOLD)
    with RawClient(sidecars[0].port) as client:
        client.send(request("/login", "X-User-ID: leaver", method="POST", body=b"x"))
        recorder.wait_for(1)
    settled(store_server, "login", "leaver", 4)
    recorder.always(Act.CLOSE)
    assert post(sidecars[1], "unlucky").status == 502
    settled(store_server, "login", "unlucky", 4)


def test_another_policys_refusal_holds_nothing(sidecars: list[Sidecar], store_server: StoreServer) -> None:
    store_server.client.hset(
        f"{PREFIX}plain:spent", mapping={"tokens": 0, "since": store_server.time_us(), "rate": "1/864000000"}
    )
    assert post(sidecars[0], "beside", "X-Tenant: spent").status == 429
    assert not store_server.client.exists(f"{PREFIX}login:beside")


def test_a_field_charges_more_than_was_held_and_the_debt_is_paid_by_growth(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    recorder.always(reply(200, "X-Tokens-Used: 663"))
    first = get(sidecars[0].port, "/v1/chat", "X-User-ID: debtor")
    assert (first.status, first.values("X-Tokens-Used"), first.body) == (200, [], b"ok")
    settled(store_server, "used", "debtor", 100 - 663)
    second = get(sidecars[1].port, "/v1/chat", "X-User-ID: debtor")
    assert second.status == 429
    # 563 of debt and the cost of 10, at 100 a day.
    assert abs(int(second.value("Retry-After")) - 573 * 864) <= 864
    assert second.value("X-RateLimit-Remaining") == "0"


def test_a_field_that_charges_less_gives_back_the_rest(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    recorder.always(reply(200, "X-Tokens-Used: 3"))
    assert get(sidecars[0].port, "/v1/chat", "X-User-ID: saver").status == 200
    settled(store_server, "used", "saver", 97)
    eventually(
        lambda: any(line.get("settled") == {"used": 3} for line in sidecars[0].events("request")),
        "its final cost in the log",
    )


@pytest.mark.parametrize("lines", [(), ("X-Tokens-Used: -5",), ("X-Tokens-Used: many",)])
def test_without_a_valid_field_the_held_cost_stays(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer, lines: tuple[str, ...]
) -> None:
    recorder.always(reply(200, *lines))
    user = f"unread-{len(str(lines))}"
    assert get(sidecars[0].port, "/v1/chat", f"X-User-ID: {user}").status == 200
    settled(store_server, "used", user, 90)
    assert 'sidegate_settlements_total{result="unread"}' in metrics(sidecars[0])


def test_a_json_body_states_the_cost(sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer) -> None:
    recorder.always(reply(200, "Content-Type: application/json", body=b'{"usage": {"total": 42}}'))
    assert get(sidecars[0].port, "/json/a", "X-User-ID: reader").body == b'{"usage": {"total": 42}}'
    settled(store_server, "body", "reader", 58)


def test_an_event_stream_passes_at_once_and_unchanged_and_its_last_event_states_the_cost(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    events = [b'data: {"n": %d, "text": "hello"}\n\n' % number for number in range(1000)]
    events += [b'data: {"usage": {"total": 663}}\n\n', b"data: [DONE]\n\n"]
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    recorder.always(head + chunks[0], Act.HOLD, *chunks[1:], b"0\r\n\r\n")
    with RawClient(sidecars[0].port) as client:
        client.send(request("/json/stream", "X-User-ID: streamer"))
        assert client.head().status == 200
        assert client.chunk() == events[0]  # while the rest has not been sent
        recorder.release()
        body = b""
        while len(body) < sum(map(len, events[1:])):
            body += client.chunk()
        assert body == b"".join(events[1:])
    settled(store_server, "body", "streamer", 100 - 663)


def test_holds_are_kept_apart_while_many_requests_are_under_way(
    sidecars: list[Sidecar], recorder: Recorder, store_server: StoreServer
) -> None:
    """Under way at once, from all sidecars: never more than the burst, and all is back at the end."""
    under_way, most, lock = 0, 0, threading.Lock()
    recorder.always(0.01, reply(200))

    def log_in(number: int) -> int:
        nonlocal under_way, most
        status: int = post(sidecars[number % 3], "crowd").status
        with lock:
            under_way += status == 200
        return status

    with ThreadPoolExecutor(30) as pool:
        statuses = list(pool.map(log_in, range(300)))
    assert set(statuses) <= {200, 429}
    settled(store_server, "login", "crowd", 5)


def metrics(sidecar: Sidecar) -> str:
    return get(sidecar.admin_port, "/metrics").body.decode()
