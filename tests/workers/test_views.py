"""The admin listener covers all workers of a sidecar and waits for none."""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import yaml

from tests.admin.admin_client import ask
from tests.raw_client import RawClient, get
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer, free_port
from tests.sidecar import Sidecar, configuration

pytestmark = pytest.mark.slow

REQUESTS = 40  # each on a connection of its own, which the kernel gives to one of two


@pytest.fixture
def pair(store_server: StoreServer) -> Iterator[Sidecar]:
    recorder = Recorder()
    config = configuration(store_server.url, recorder.url, listen={"port": free_port(), "workers": 2})
    with Sidecar(config) as sidecar:
        sidecar.wait_for_event("workers_ready")
        yield sidecar
    recorder.stop()


def pid_of(sidecar: Sidecar, worker: int) -> int:
    found: int = [line["pid"] for line in sidecar.events("started") if line["worker"] == worker][-1]
    return found


def spend(sidecar: Sidecar, user: str, count: int = REQUESTS) -> Counter[int]:
    return Counter(get(sidecar.port, "/tight/a", f"X-User-ID: {user}").status for _ in range(count))


def outcomes(sidecar: Sidecar) -> dict[str, int]:
    policies = {each["name"]: each["outcomes"] for each in ask(sidecar, "/policies")[2]["policies"]}
    found: dict[str, int] = policies["tight"]
    return found


def drawn(sidecar: Sidecar) -> Counter[str]:
    found: Counter[str] = Counter()
    for second in ask(sidecar, "/timeline?seconds=900")[2]["seconds"]:
        found.update(second["policies"].get("tight", {}))
    return found


def state(sidecar: Sidecar) -> dict[str, Any]:
    found: dict[str, Any] = ask(sidecar, "/timeline?seconds=1")[2]["state"]
    return found


def test_policies_timeline_top_and_events_count_all_workers(pair: Sidecar) -> None:
    assert spend(pair, "ann") == {200: 2, 429: REQUESTS - 2}
    wanted = {"allowed": 2, "refused": REQUESTS - 2}
    eventually(lambda: outcomes(pair) == wanted, "both workers' counts under /policies")
    eventually(lambda: drawn(pair) == wanted, "the same in the timeline")
    (key,) = ask(pair, "/top")[2]["refused"]
    assert (key["key"], key["count"], key["error"]) == ("ann", REQUESTS - 2, 0)
    with RawClient(pair.admin_port) as client:
        client.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.head().status == 200
        received = b""
        while b"\n\n" not in received:
            received += client.read(1)
    history = json.loads(received.partition(b"data: ")[2].partition(b"\n")[0])
    assert sum(second["policies"].get("tight", {}).get("refused", 0) for second in history["seconds"]) == REQUESTS - 2
    assert history["state"]["refused"][0]["count"] == REQUESTS - 2


def test_connections_of_all_workers_are_added_and_each_worker_is_listed(pair: Sidecar) -> None:
    with ExitStack() as stack:
        for _ in range(12):
            client = stack.enter_context(RawClient(pair.port))
            assert client.get("/a", "X-User-ID: ann").status == 200
        eventually(lambda: state(pair)["connections"] == 12, "the connections of both")
        first, second = state(pair)["workers"]
        assert (first["pid"], second["pid"]) == (pid_of(pair, 0), pid_of(pair, 1))
        assert first["connections"] + second["connections"] == 12
        assert first["hash"] == second["hash"] == ask(pair, "/config")[2]["hash"]


@pytest.mark.long
def test_counts_of_a_dead_worker_stay_and_are_not_new_to_a_restarted_leader(pair: Sidecar) -> None:
    pair.may_complain = True  # worker_died is an error
    spend(pair, "ann")
    wanted = {"allowed": 2, "refused": REQUESTS - 2}
    eventually(lambda: outcomes(pair) == wanted, "both workers' counts")
    os.kill(pid_of(pair, 1), signal.SIGKILL)
    pair.wait_for_event("started", 3)
    eventually(lambda: state(pair)["workers"][1].get("pid") == pid_of(pair, 1), "the new one's word")
    assert outcomes(pair) == drawn(pair) == wanted
    os.kill(pid_of(pair, 0), signal.SIGKILL)  # the admin listener's own
    pair.wait_for_event("started", 4)
    eventually(lambda: outcomes(pair) == wanted, "the parent to tell the new one of what was")
    spend(pair, "bob")
    eventually(lambda: outcomes(pair)["refused"] == 2 * (REQUESTS - 2), "what came since")
    eventually(lambda: drawn(pair)["refused"] == REQUESTS - 2, "a timeline that begins with the new one")


def test_a_reset_reaches_the_local_buckets_of_every_worker(own_store_server: StoreServer) -> None:
    recorder = Recorder()
    policy = {"name": "p", "match": {"path": ["/**"]}, "key": "header:X-User-ID", "limit": "1/day", "burst": 4}
    config = configuration(
        own_store_server.url,
        recorder.url,
        policies=[{**policy, "on_store_failure": "local"}],
        listen={"port": free_port(), "workers": 2},
        store={"replicas": 1},  # each worker's share is half of it
    )
    with Sidecar(config) as sidecar, ExitStack() as stack:
        sidecar.wait_for_event("workers_ready")
        clients = [stack.enter_context(RawClient(sidecar.port)) for _ in range(12)]
        own_store_server.kill()
        sidecar.wait_for_event("store_unavailable", 2)

        def passed() -> int:
            return sum(client.get("/a", "X-User-ID: ann").status == 200 for client in clients)

        assert passed() + passed() == 4
        assert passed() == 0
        assert ask(sidecar, "/buckets/p/ann", method="DELETE")[2]["local"] is True
        again = 0

        def all_again() -> bool:
            nonlocal again
            again += passed()
            return again >= 4

        eventually(all_again, "both workers' shares to begin anew")
        assert again == 4
    recorder.stop()


@pytest.mark.long
def test_no_page_waits_for_a_worker_that_hangs_until_it_is_replaced(pair: Sidecar) -> None:
    pair.may_complain = True  # worker_hung and worker_died are errors
    spend(pair, "ann")
    eventually(lambda: outcomes(pair).get("refused") == REQUESTS - 2, "both workers' counts")
    before = ask(pair, "/config")[2]["hash"]
    os.kill(pid_of(pair, 1), signal.SIGSTOP)
    pair.config_file.write_text(yaml.safe_dump({**pair.config, "policies": pair.config["policies"][:1]}))
    eventually(lambda: ask(pair, "/config")[2]["hash"] != before, "the first worker to take the edit over")
    for path in ("/policies", "/top", "/timeline", "/metrics", "/config", "/livez", "/readyz"):
        assert ask(pair, path)[0] == 200  # within the client's 10 s
    pair.wait_for_event("worker_hung")
    pair.wait_for_event("started", 3)
    eventually(
        lambda: len({each["hash"] for each in ask(pair, "/config")[2]["workers"]}) == 1, "both to be alike again"
    )
