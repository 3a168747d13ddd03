"""Sidecars with Sentinel and with Cluster, over HTTP: exact counts, a failover under load, a change of password."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
import yaml
from sidegate.store.cluster.slots import slot_of

from tests.admin import admin_client as admin
from tests.chaos.traffic import Answered, Traffic, Wanted
from tests.raw_client import get
from tests.recorder import Act, Recorder, eventually
from tests.servers import StoreServer, documented_rights, free_port
from tests.sidecar import PREFIX, Config, Sidecar, configuration
from tests.topologies import ClusterTrio, SentinelTrio

pytestmark = pytest.mark.slow

BURST = 7
EXACT = {
    "name": "exact",
    "match": {"path": ["/exact/**"]},
    "key": "header:X-User-ID",
    "limit": "1/day",
    "burst": BURST,
}
TOPOLOGIES = ["sentinel", "cluster"]


class Topology:
    """A store of several servers. `servers` are those that a sidecar connects to."""

    def __init__(self, kind: str) -> None:
        made: SentinelTrio | ClusterTrio
        if kind == "sentinel":
            self.sentinels = made = SentinelTrio()
            self.servers = made.servers
        elif kind == "cluster":
            self.cluster = made = ClusterTrio("--cluster-require-full-coverage", "no", "--cluster-node-timeout", "2000")
            self.servers = made.nodes
        self.url, self.stop = made.url, made.stop


@pytest.fixture(scope="module")
def shared_stores() -> Iterator[Callable[[str], Topology]]:
    made: dict[str, Topology] = {}

    def shared(kind: str) -> Topology:
        if kind not in made:
            made[kind] = Topology(kind)
        return made[kind]

    yield shared
    for each in made.values():
        each.stop()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """An application that answers each request with its target."""
    recorder = Recorder()
    recorder.always(Act.TARGET)
    yield recorder
    assert recorder.faults == []
    recorder.stop()


def several(stack: ExitStack, count: int, store_url: str, recorder: Recorder, **store: object) -> list[Sidecar]:
    """Start `count` sidecars with one store."""
    config = configuration(store_url, recorder.url, policies=[EXACT], store=store)
    configs: list[Config] = [{**config, "admin": {**config["admin"], "port": free_port()}} for _ in range(count)]
    return [stack.enter_context(Sidecar(each)) for each in configs]


def ask(sidecar: Sidecar, who: str) -> int:
    return get(sidecar.port, "/exact/x", f"X-User-ID: {who}").status


def exactly(sidecars: Sequence[Sidecar], users: Sequence[str], times: int = BURST + 5) -> None:
    """Send `times` requests per user to the sidecars in turn: exactly the burst passes, the rest is refused."""
    counts = {who: Counter(ask(sidecars[turn % len(sidecars)], who) for turn in range(times)) for who in users}
    assert counts == {who: {200: BURST, 429: times - BURST} for who in users}


@pytest.mark.parametrize("kind", TOPOLOGIES)
@pytest.mark.long
def test_sidecars_of_one_store_admit_exactly_the_burst(
    kind: str, shared_stores: Callable[[str], Topology], recorder: Recorder
) -> None:
    with ExitStack() as stack:
        sidecars = several(stack, 3, shared_stores(kind).url, recorder)
        exactly(sidecars, [f"user-{number}" for number in range(12)])
        assert len(recorder.requests) == 12 * BURST
        health = get(sidecars[0].port, "/health")
        assert (health.status, health.json()["store"]) == (200, {"status": "ok"})


# -- a failover under load --------------------------------------------------------------------------------------------


class Crowd:
    """Constant load of a few users on some sidecars."""

    def __init__(self, sidecars: Sequence[Sidecar], users: Sequence[str]) -> None:
        self.sidecars, self.users = sidecars, users
        self.traffic = Traffic([each.port for each in sidecars], 120.0, self._wanted)

    def _wanted(self, number: int) -> Wanted:
        return Wanted("exact", self.users[number // 3 % len(self.users)], f"/exact/{number}")

    @property
    def answers(self) -> list[Answered]:
        return self.traffic.answers

    def since(self, sent_s: float) -> Counter[int]:
        return Counter(each.status for each in list(self.answers) if each.sent_s >= sent_s)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        await asyncio.to_thread(eventually, condition, what)

    async def through(self, fault: Callable[[], None], served_again: Callable[[], object]) -> None:
        """Send requests before, during and after a fault, until all users are served again."""
        task = asyncio.get_running_loop().create_task(self.traffic.run())
        try:
            await self.until(lambda: len(self.answers) > 40, "answers before the fault")
            await asyncio.to_thread(fault)
            await self.until(served_again, "everybody is served again")
            await asyncio.sleep(0.3)
        finally:
            self.traffic.stop()
            await task

    def judge(self, recorder: Recorder, losses: int) -> None:
        """Assert that every answer is 200, 429 or 503, belongs to its request, and that no user exceeded the bound."""
        assert set(Counter(each.status for each in self.answers)) <= {200, 429, 503}
        assert all(each.echoed for each in self.answers if each.status == 200)
        passed = Counter(each.wanted.user for each in self.answers if each.status == 200)
        assert max(passed.values()) <= BURST * (1 + losses)
        at_the_app = Counter(request.target.decode() for request in recorder.requests)
        refused = [each for each in self.answers if each.status != 200]
        assert not any(at_the_app[each.wanted.target] for each in refused)


@pytest.mark.long
async def test_a_sentinel_failover_under_load_costs_503s_only(recorder: Recorder) -> None:
    store = Topology("sentinel")
    try:
        with ExitStack() as stack:
            sidecars = several(stack, 3, store.url, recorder)
            master = store.sentinels.master
            crowd = Crowd(sidecars, [f"user-{number}" for number in range(30)])
            killed_s = 0.0

            def kill() -> None:
                nonlocal killed_s
                master.kill()
                killed_s = time.monotonic()

            def served_again() -> bool:
                back = [sidecar.wait_for_event("store_connected", 2)[1] for sidecar in sidecars]
                return len(back) == 3 and all(crowd.answers[-at].status in (200, 429) for at in range(1, 31))

            await crowd.through(kill, served_again)
            crowd.judge(recorder, losses=1)
            assert crowd.since(killed_s)[503] > 0
            exactly(sidecars, ["after-1", "after-2"])
    finally:
        store.stop()


@pytest.mark.long
async def test_a_cluster_failover_under_load_costs_503s_for_the_slots_of_the_failed_node_only(
    recorder: Recorder,
) -> None:
    store = Topology("cluster")
    cluster = store.cluster
    try:
        victim = cluster.nodes[0]
        cluster.add_replica(victim)
        users = [f"user-{number}" for number in range(30)]
        of_victim = {who for who in users if cluster.owner(slot_of(f"{PREFIX}exact:{who}")) is victim}
        assert 0 < len(of_victim) < len(users)
        with ExitStack() as stack:
            sidecars = several(stack, 3, store.url, recorder)
            crowd = Crowd(sidecars, users)

            def served_again() -> bool:
                latest = {(each.wanted.user, each.sidecar): each.status for each in list(crowd.answers)}
                denied = any(each.status == 503 for each in list(crowd.answers))
                return denied and 503 not in latest.values()

            await crowd.through(victim.kill, served_again)
            crowd.judge(recorder, losses=1)
            denied = {each.wanted.user for each in crowd.answers if each.status == 503}
            assert denied <= of_victim
            exactly(sidecars, ["after-1", "after-2", *(f"after-{who}" for who in of_victim)])
    finally:
        store.stop()


# -- a change of password ----------------------------------------------------------------------------------------------


def grant(servers: Sequence[StoreServer], *words: str) -> None:
    """Change the ACL of the user `rotated` on all servers."""
    for server in servers:
        client: Any = server.client
        client.execute_command("ACL SETUSER", "rotated", *words)


def connections(servers: Sequence[StoreServer]) -> set[tuple[int, str]]:
    """Connections of the user `rotated`."""
    clients = [(server.port, each) for server in servers for each in server.client.client_list()]
    return {(port, str(each["id"])) for port, each in clients if each["user"] == "rotated"}


def buckets(sidecar: Sidecar) -> int:
    """Status of the admin page that lists buckets."""
    return admin.ask(sidecar, "/buckets?policy=exact")[0]


@pytest.mark.parametrize("kind", ["one server", *TOPOLOGIES])
async def test_a_password_changed_in_the_configuration_is_used_and_no_request_fails(
    kind: str, shared_stores: Callable[[str], Topology], recorder: Recorder, store_server: StoreServer
) -> None:
    topology = None if kind == "one server" else shared_stores(kind)
    servers = [store_server] if topology is None else topology.servers
    grant(servers, "reset", "on", ">old", "~*", *documented_rights())
    with ExitStack() as stack:
        (sidecar,) = several(
            stack, 1, topology.url if topology else store_server.url, recorder, username="rotated", password="old"
        )
        crowd = Crowd([sidecar], [f"rotating-{number}" for number in range(20)])
        assert buckets(sidecar) == 200
        before = connections(servers)

        def rotate() -> None:
            grant(servers, ">new")
            config = yaml.safe_load(sidecar.config_file.read_text("utf-8"))
            config["store"]["password"] = "new"
            sidecar.config_file.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
            sidecar.wait_for_event("config_reloaded")

        def renewed() -> bool:
            return bool(connections(servers)) and buckets(sidecar) == 200 and not (connections(servers) & before)

        await crowd.through(rotate, renewed)
        assert set(Counter(each.status for each in crowd.answers)) <= {200, 429}
        grant(servers, "<old")
        # All connections from now on use the new one.
        for server in servers:
            server.client.client_kill_filter(_type="normal", skipme=True)
        eventually(lambda: ask(sidecar, "afterwards") == 200, "the store decides again")
        eventually(lambda: buckets(sidecar) == 200, "the admin pages see the store")
        assert not any("WRONGPASS" in str(line) for line in sidecar.lines)
