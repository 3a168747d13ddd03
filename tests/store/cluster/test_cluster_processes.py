"""Whole sidecars on a Cluster of which nodes hang: each bucket takes its own mode, and shares stay shares."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice

import pytest
from sidegate.store.cluster.slots import slot_of
from sidegate.store.local_store import MOST_BUCKETS

from tests.raw_client import get, request
from tests.recorder import OK, Recorder, eventually
from tests.servers import StoreServer
from tests.sidecar import PREFIX, Sidecar, configuration
from tests.topologies import ClusterTrio

PROXIES = 4
ON_USER = "header:X-User-ID"
POLICIES = [
    {"name": "user", "match": {"path": "/both/**"}, "key": ON_USER, "limit": "10/day"},
    {
        "name": "all",
        "match": {"path": "/both/**"},
        "key": "header:X-All",
        "limit": "1000/day",
        "on_store_failure": "allow",
    },
    {
        "name": "costly",
        "match": {"path": "/costly/**"},
        "key": ON_USER,
        "limit": "100/day",
        "cost": {"POST": 50},
        "on_store_failure": "local",
    },
    {"name": "shared", "match": {"path": "/shared/**"}, "key": ON_USER, "limit": "8/day", "on_store_failure": "local"},
]


@pytest.fixture(scope="module")
def patient_cluster() -> Iterator[ClusterTrio]:
    """A Cluster that does not call a hung node dead while these tests run."""
    cluster = ClusterTrio("--cluster-node-timeout", "600000")
    yield cluster
    cluster.stop()


@contextmanager
def running(cluster: ClusterTrio, recorder: Recorder, count: int) -> Iterator[list[Sidecar]]:
    """Sidecars that are connected to every node."""
    store = {"timeout": "500ms", "replicas": PROXIES}
    with ExitStack() as stack:
        found = [
            stack.enter_context(Sidecar(configuration(cluster.url, recorder.url, policies=POLICIES, store=store)))
            for _ in range(count)
        ]
        for each in found:
            for number in range(12):
                eventually(lambda: status(each, "/both/x", f"warm-{number}", f"a{number}") == 200, "a decision")  # noqa: B023
        yield found


@contextmanager
def hung(nodes: list[StoreServer]) -> Iterator[None]:
    for node in nodes:
        node.pause()
    try:
        yield
    finally:
        for node in nodes:
            node.resume()


def status(sidecar: Sidecar, path: str, user: str, shared: str = "a", method: str = "GET") -> int:
    return get(sidecar.port, path, f"X-User-ID: {user}", f"X-All: {shared}", method=method).status


def keys_of(cluster: ClusterTrio, node: StoreServer, policy: str, *, other: bool = False) -> list[str]:
    """Three keys whose buckets are on a node, or with `other` on the other nodes. Ask before a node hangs."""
    keys = (f"k{number}" for number in range(1000))
    owners = ((key, cluster.owner(slot_of(f"{PREFIX}{policy}:{key}"))) for key in keys)
    return list(islice((key for key, owner in owners if (owner is node) is not other), 3))


@pytest.mark.long
def test_healthy_buckets_decide_while_a_shared_one_that_allows_is_on_a_hung_node(
    patient_cluster: ClusterTrio, recorder: Recorder
) -> None:
    node = patient_cluster.nodes[0]
    shared, *_ = keys_of(patient_cluster, node, "all")
    users = keys_of(patient_cluster, node, "user", other=True)
    with running(patient_cluster, recorder, 2) as sidecars, hung([node]):
        for user in users:
            answers = [status(sidecars[number % 2], "/both/x", user, shared) for number in range(30)]
            assert answers == [200] * 10 + [429] * 20


@pytest.mark.long
def test_a_large_cost_of_one_method_does_not_raise_the_share_of_others(
    patient_cluster: ClusterTrio, recorder: Recorder
) -> None:
    node = patient_cluster.nodes[0]
    reader, writer, _ = keys_of(patient_cluster, node, "costly")
    with running(patient_cluster, recorder, 1) as (sidecar,), hung([node]):
        answers = [status(sidecar, "/costly/x", reader) for _ in range(40)]
        assert answers == [200] * (100 // PROXIES) + [429] * (40 - 100 // PROXIES)
        # A share begins with its part of the limit, so the cost must grow first; asking for it raises nothing.
        assert status(sidecar, "/costly/x", writer, method="POST") == 429
        answers = [status(sidecar, "/costly/x", writer) for _ in range(40)]
        assert answers == [200] * (100 // PROXIES) + [429] * (40 - 100 // PROXIES)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_invented_identities_do_not_restore_a_spent_share(patient_cluster: ClusterTrio, recorder: Recorder) -> None:
    recorder.always(OK)
    with running(patient_cluster, recorder, 1) as (sidecar,), hung(patient_cluster.nodes):
        assert [status(sidecar, "/shared/x", "greedy") for _ in range(4)] == [200, 200, 429, 429]
        admitted = invented(sidecar, MOST_BUCKETS + 1000)
        assert MOST_BUCKETS - 100 < admitted < MOST_BUCKETS
        assert status(sidecar, "/shared/x", "greedy") == 429


def invented(sidecar: Sidecar, count: int) -> int:
    """Send one request for each of `count` identities, in pipelines; returns how many were admitted."""
    admitted, batch = 0, 200
    with socket.create_connection(("127.0.0.1", sidecar.port), 30) as client, client.makefile("rb") as answers:
        for begin in range(0, count, batch):
            users = range(begin, min(begin + batch, count))
            client.sendall(b"".join(request("/shared/x", f"X-User-ID: invented-{user}") for user in users))
            for _ in users:
                admitted += answers.readline().startswith(b"HTTP/1.1 200")
                length = 0
                while (line := answers.readline()) != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line[15:])
                assert len(answers.read(length)) == length
    return admitted
