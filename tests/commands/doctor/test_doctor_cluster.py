"""`sidegate doctor` checks every master of a Cluster."""

from collections.abc import Iterator

import pytest

from tests.commands.doctor.conftest import Doctor, of
from tests.topologies import ClusterTrio

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterTrio]:
    cluster = ClusterTrio("--maxmemory", "100mb")
    yield cluster
    cluster.stop()


def test_a_whole_cluster_is_well(cluster: ClusterTrio, doctor: Doctor) -> None:
    done = doctor(cluster.url)
    assert (done.status, of(done, "decisions")["state"], of(done, "rights")["state"]) == (0, "ok", "ok"), done.out
    assert "3 masters: 127.0.0.1:" in of(done, "store")["text"]
    assert of(done, "eviction")["text"] == "maxmemory 104857600 bytes, noeviction"


def test_one_master_that_evicts_is_named(cluster: ClusterTrio, doctor: Doctor) -> None:
    node = cluster.nodes[1]
    node.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        found = of(doctor(cluster.url), "eviction")
    finally:
        node.client.config_set("maxmemory-policy", "noeviction")
    assert found["state"] == "warn"
    assert found["text"].startswith(f"127.0.0.1:{node.port}: ")


def test_a_right_that_is_missing_on_one_master_is_named(cluster: ClusterTrio, doctor: Doctor) -> None:
    for node in cluster.nodes:
        forbidden = ["-scan"] if node is cluster.nodes[2] else []
        node.client.acl_setuser(
            "user", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", *forbidden], reset=True
        )
    done = doctor(cluster.url, store={"username": "user", "password": "x"})
    warned = [each["text"] for each in done.json["findings"] if each["part"] == "rights"]
    assert len(warned) == 1
    assert warned[0].startswith(f"127.0.0.1:{cluster.nodes[2].port}: SCAN: ")


def test_one_master_that_is_full_fails_the_decision(cluster: ClusterTrio, doctor: Doctor) -> None:
    node = cluster.nodes[0]
    node.client.config_set("maxmemory", "1")
    try:
        done = doctor(cluster.url)
    finally:
        node.client.config_set("maxmemory", "100mb")
    failed = [each["text"] for each in done.json["findings"] if each["state"] == "fail"]
    assert len(failed) == 1
    assert failed[0].startswith(f"127.0.0.1:{node.port}: ")
    assert failed[0].endswith("(oom)")
