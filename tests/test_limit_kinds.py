"""Settled costs, requests in flight and waits: under several workers, over Sentinel, in a Cluster, during an outage,
and all of them on one request.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.admin.admin_client import ask as admin_page
from tests.raw_client import RawClient, Reply, get, request
from tests.recorder import OK, Act, Recorder, eventually
from tests.servers import StoreServer, free_port
from tests.sidecar import PREFIX, Sidecar, configuration
from tests.topologies import ClusterTrio, SentinelTrio

pytestmark = pytest.mark.slow

# Rates by the day are so low that no token grows during a test.
ONE_EACH: list[dict[str, object]] = [
    {"name": "login", "match": {"path": "/login"}, "limit": "5/day", "settle": {"when": [401]}},
    {"name": "used", "match": {"path": "/used"}, "limit": "100/day", "cost": 10, "settle": {"header": "X-Used"}},
    {"name": "busy", "match": {"path": "/busy"}, "in_flight": 2},
    {"name": "queue", "match": {"path": "/queue"}, "limit": "50/s", "burst": 1, "wait": "10s"},
]
# All on one request.
TOGETHER: list[dict[str, object]] = [
    {"name": "internal", "match": {"path": "/all", "header": {"X-Internal": True}}, "exempt": True},
    {"name": "all-rate", "match": {"path": "/all"}, "limit": "100/day"},
    {"name": "all-login", "match": {"path": "/all"}, "limit": "2/day", "settle": {"when": [401]}},
    {"name": "all-used", "match": {"path": "/all"}, "limit": "100/day", "cost": 10, "settle": {"json": "used"}},
    {"name": "all-busy", "match": {"path": "/all"}, "in_flight": 1, "overrides": [{"key": "vip", "in_flight": 3}]},
    {"name": "all-queue", "match": {"path": "/all"}, "limit": "20/s", "burst": 2, "wait": "10s"},
    {"name": "all-trial", "match": {"path": "/all"}, "in_flight": 1, "shadow": True},
    {"name": "all-trial-login", "match": {"path": "/all"}, "limit": "1/day", "settle": {"when": [401]}, "shadow": True},
]
POLICIES = [policy if policy.get("exempt") else {**policy, "key": "header:X-User-ID"} for policy in ONE_EACH + TOGETHER]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    assert recorder.faults == []
    recorder.stop()


def reply(status: int, *lines: str, body: bytes = b"ok") -> bytes:
    head = "".join(f"{line}\r\n" for line in lines)
    return f"HTTP/1.1 {status} Some\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def ask(sidecar: Sidecar, user: str, target: str, *fields: str) -> Reply:
    return get(sidecar.port, target, f"X-User-ID: {user}", *fields)


def begin(sidecar: Sidecar, user: str, target: str) -> RawClient:
    client = RawClient(sidecar.port)
    client.send(request(target, f"X-User-ID: {user}"))
    return client


# -- each kind, wherever the buckets are -------------------------------------------------------------------------------


def each_kind_holds(sidecars: Sequence[Sidecar], recorder: Recorder, user: str) -> None:
    """Every request takes a connection of its own, which with workers goes to any of them."""
    of_all_wrong_logins_five_arrive(sidecars, recorder, user)
    a_debt_refuses(sidecars, recorder, user)
    places_are_shared(sidecars, recorder, user)
    waiting_requests_depart_at_the_rate(sidecars, recorder, user)


def of_all_wrong_logins_five_arrive(sidecars: Sequence[Sidecar], recorder: Recorder, user: str) -> None:
    recorder.always(0.05, reply(401))
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda n: ask(sidecars[n % len(sidecars)], user, "/login").status, range(24)))
    assert Counter(answers) == {401: 5, 429: 19}
    recorder.always(reply(200))
    good = [ask(sidecars[n % len(sidecars)], f"{user}-good", "/login").status for n in range(24)]
    # What a request held is given back after its answer: the next one, elsewhere, may come before that.
    assert good.count(200) >= 19
    assert set(good) <= {200, 429}


def a_debt_refuses(sidecars: Sequence[Sidecar], recorder: Recorder, user: str) -> None:
    recorder.always(reply(200, "X-Used: 663"))
    assert ask(sidecars[0], user, "/used").status == 200
    eventually(lambda: ask(sidecars[-1], user, "/used").status == 429, "a refusal for the debt")


def places_are_shared(sidecars: Sequence[Sidecar], recorder: Recorder, user: str) -> None:
    recorder.reset()  # what was released before is held again
    recorder.always(Act.HOLD, OK)
    arrived = len(recorder.requests)
    with begin(sidecars[0], user, "/busy") as first, begin(sidecars[-1], user, "/busy") as second:
        recorder.wait_for(arrived + 2)
        assert [ask(sidecar, user, "/busy").status for sidecar in (*sidecars, *sidecars)] == [429] * 2 * len(sidecars)
        recorder.release()
        assert [first.reply().status, second.reply().status] == [200, 200]
    eventually(lambda: ask(sidecars[0], user, "/busy").status == 200, "a free place")


def waiting_requests_depart_at_the_rate(sidecars: Sequence[Sidecar], recorder: Recorder, user: str) -> None:
    recorder.always(OK)
    begun_s = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: ask(sidecars[n % len(sidecars)], user, "/queue").status, range(16)))
    assert set(answers) == {200}
    assert time.monotonic() - begun_s >= 15 * 0.02  # the first at once


def several(stack: ExitStack, count: int, store_url: str, recorder: Recorder, **listen: object) -> list[Sidecar]:
    configs = [configuration(store_url, recorder.url, policies=POLICIES, listen=listen) for _ in range(count)]
    return [stack.enter_context(Sidecar(each)) for each in configs]


def test_each_kind_of_limit_is_shared_by_workers(store_server: StoreServer, recorder: Recorder) -> None:
    with ExitStack() as stack:
        sidecars = several(stack, 1, store_server.url, recorder, workers=2, port=free_port())
        sidecars[0].wait_for_event("workers_ready")
        each_kind_holds(sidecars, recorder, "worker")


@pytest.mark.long
def test_each_kind_of_limit_holds_in_a_cluster(recorder: Recorder) -> None:
    cluster = ClusterTrio()
    try:
        with ExitStack() as stack:
            sidecars = several(stack, 2, cluster.url, recorder)
            for user in ("ann", "bob", "cid"):  # their buckets lie on several nodes
                each_kind_holds(sidecars, recorder, user)
            together_all_or_nothing(sidecars[0], recorder)
    finally:
        cluster.stop()


@pytest.mark.long
def test_each_kind_of_limit_outlasts_a_sentinel_failover(recorder: Recorder) -> None:
    sentinels = SentinelTrio()
    try:
        with ExitStack() as stack:
            sidecars = several(stack, 2, sentinels.url, recorder)
            each_kind_holds(sidecars, recorder, "before")
            recorder.reset()
            recorder.always(Act.HOLD, reply(401))
            arrived = len(recorder.requests)
            clients = [begin(sidecars[0], "over", target) for target in ("/busy", "/busy", "/login")]
            recorder.wait_for(arrived + 3)
            sentinels.master.kill()
            for sidecar in sidecars:
                sidecar.wait_for_event("store_connected", 2)
            # Places are renewed at the new master, whatever had reached it before.
            eventually(lambda: ask(sidecars[1], "over", "/busy").status == 429, "a refusal")
            recorder.release()
            assert [client.reply().status for client in clients] == [401, 401, 401]
            for client in clients:
                client.reset()
            recorder.always(reply(401))
            eventually(lambda: ask(sidecars[1], "over", "/busy").status == 401, "a free place")
            # The wrong login from before counts: four more arrive.
            answers = Counter(ask(sidecars[1], "over", "/login").status for _ in range(8))
            assert answers == {401: 4, 429: 4}
            each_kind_holds(sidecars, recorder, "after")
    finally:
        sentinels.stop()


# -- all on one request ------------------------------------------------------------------------------------------------


@pytest.fixture
def sidecar(store_server: StoreServer, recorder: Recorder) -> Iterator[Sidecar]:
    with ExitStack() as stack:
        yield several(stack, 1, store_server.url, recorder)[0]


def together_all_or_nothing(sidecar: Sidecar, recorder: Recorder) -> None:
    """Two wrong logins pass, and a third request is refused by that policy alone."""
    recorder.always(reply(401, body=b'{"used": 3}'))
    assert [ask(sidecar, "mixed", "/all").status for _ in range(2)] == [401, 401]
    for _ in range(3):
        assert ask(sidecar, "mixed", "/all").json()["violated-policies"] == ["all-login"]


def stored(store: StoreServer, policy: str, user: str) -> int:
    """Tokens left, or places in use."""
    client: Any = store.client
    if client.exists(f"{PREFIX}{policy}/in_flight:{user}"):
        return int(client.zcard(f"{PREFIX}{policy}/in_flight:{user}"))
    return int(client.hget(f"{PREFIX}{policy}:{user}", "tokens") or 0)


def test_policies_of_all_kinds_on_one_request_are_charged_together_or_not_at_all(
    sidecar: Sidecar, recorder: Recorder, store_server: StoreServer
) -> None:
    together_all_or_nothing(sidecar, recorder)
    assert len(recorder.requests) == 2
    eventually(lambda: stored(store_server, "all-used", "mixed") == 94, "both settlements")
    assert [stored(store_server, f"all-{name}", "mixed") for name in ("rate", "login", "busy")] == [98, 0, 0]
    assert stored(store_server, "all-trial", "mixed") == 0
    page = admin_page(sidecar, "/metrics")[2].decode()
    outcomes = {line.rpartition(" ")[0] for line in page.splitlines() if line.startswith("sidegate_requests_total{")}
    assert any('"all-trial-login"' in each and '"shadow_refused"' in each for each in outcomes)
    # Exempt requests hold nothing and take no place.
    assert ask(sidecar, "mixed", "/all", "X-Internal: 1").status == 401
    assert stored(store_server, "all-rate", "mixed") == 98


def test_a_full_place_refuses_all_kinds_and_an_override_gives_more_places(
    sidecar: Sidecar, recorder: Recorder, store_server: StoreServer
) -> None:
    recorder.always(Act.HOLD, reply(200, body=b'{"used": 30}'))
    with begin(sidecar, "single", "/all") as only, ExitStack() as stack:
        recorder.wait_for(1)
        assert ask(sidecar, "single", "/all").json()["violated-policies"] == ["all-busy"]
        assert (stored(store_server, "all-rate", "single"), stored(store_server, "all-queue", "single")) == (99, 1)
        several_at_once = [stack.enter_context(begin(sidecar, "vip", "/all")) for _ in range(2)]
        recorder.wait_for(3)
        assert stored(store_server, "all-busy", "vip") == 2
        recorder.release()
        assert [client.reply().status for client in (only, *several_at_once)] == [200] * 3
    eventually(lambda: stored(store_server, "all-used", "vip") == 40, "two measured costs")
    eventually(lambda: stored(store_server, "all-busy", "vip") == 0, "no places in use")
    assert stored(store_server, "all-login", "vip") == 2


# -- during an outage --------------------------------------------------------------------------------------------------


def test_shares_of_settled_costs_and_places_decide_during_an_outage(
    own_store_server: StoreServer, recorder: Recorder
) -> None:
    policies = [
        {**policy, "on_store_failure": "local"} for policy in POLICIES if policy["name"] in ("login", "used", "busy")
    ]
    patient = {"name": "patient", "match": {"path": "/patient"}, "limit": "1/20s", "wait": "1m", "key": "client_ip"}
    policies.append({**patient, "on_store_failure": "local"})
    config = configuration(
        own_store_server.url, recorder.url, policies=policies, store={"timeout": "200ms", "replicas": 2}
    )
    with Sidecar(config) as sidecar:
        own_store_server.kill()
        sidecar.wait_for_event("store_unavailable")
        share_holds = _shares(sidecar, recorder)
        assert share_holds == {"wrong": {401: 2, 429: 4}, "good": {200: 20}, "used": {200: 1, 429: 3}}
        recorder.always(Act.HOLD, OK)
        arrived = len(recorder.requests)
        with begin(sidecar, "away", "/busy") as client:
            recorder.wait_for(arrived + 1)
            assert ask(sidecar, "away", "/busy").status == 429
            recorder.release()
            assert client.reply().status == 200
        assert ask(sidecar, "away", "/busy").status == 200
        assert [ask(sidecar, "away", "/patient").status for _ in range(3)] == [200, 429, 429]  # no wait for 20 s
        own_store_server.start()
        # The final costs are debts to the shared buckets: two wrong logins, and of a use of 663 what there is.
        eventually(lambda: _owed(sidecar, own_store_server) == (3, 0), "the debts are paid")


def _shares(sidecar: Sidecar, recorder: Recorder) -> dict[str, Counter[int]]:
    found = {}
    for name, answer, target, count in (
        ("wrong", reply(401), "/login", 6),
        ("good", reply(200), "/login", 20),
        ("used", reply(200, "X-Used: 663"), "/used", 4),
    ):
        recorder.always(answer)
        found[name] = Counter(ask(sidecar, f"away-{name}", target).status for _ in range(count))
    return found


def _owed(sidecar: Sidecar, store: StoreServer) -> tuple[int, int]:
    ask(sidecar, "another", "/login")  # requests begin the payment
    return stored(store, "login", "away-wrong"), stored(store, "used", "away-used")
