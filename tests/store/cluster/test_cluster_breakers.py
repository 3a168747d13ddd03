"""Each node of a Cluster has its own breaker: a failing node is bypassed while the others go on."""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sidegate.decision.bucket import Charge
from sidegate.decision.policy import OnStoreFailure, PolicyMatch
from sidegate.decision.verdict import Answer, DecisionSource, Outcome, Verdict
from sidegate.store.breaker import FAILURES_TO_OPEN, BreakerState
from sidegate.store.cluster.slots import slot_of
from sidegate.store.local_store import LocalStore
from sidegate.store.protocol import OnLevels, StoreUnavailable
from sidegate.store.settlement import Settlement
from sidegate.telemetry.outcomes import policy_outcomes

from tests.admin.admin_client import ask
from tests.raw_client import get
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer
from tests.sidecar import Sidecar as Process
from tests.sidecar import configuration, run_command
from tests.store.sidecar import PATIENCE_S, Sidecar, all_of, asking, hourly, sidecar
from tests.topologies import ClusterTrio

ROOMY = hourly(1_000_000)


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[ClusterTrio]:
    # It takes 15 s to find a node dead, so that one that hangs for a moment stays in its place.
    cluster = ClusterTrio("--cluster-require-full-coverage", "no")
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(shared_cluster: ClusterTrio) -> ClusterTrio:
    """Three masters, empty. Whatever is done to one is to be undone."""
    shared_cluster.empty()
    return shared_cluster


def keys_of(cluster: ClusterTrio, node: StoreServer, count: int = 3) -> list[str]:
    """Some keys that a node has."""
    found = [key for key in (f"k{number}" for number in range(60)) if cluster.owner(slot_of(key)) is node]
    return found[:count]


def states(proxy: Sidecar) -> dict[str, BreakerState]:
    return {node: breaker.state for node, breaker in proxy.limiter.breakers.items()}


def reasons(verdicts: list[Verdict]) -> set[str]:
    return {verdict.reason for verdict in verdicts}


async def until_left_alone(proxy: Sidecar, key: str) -> None:
    """Ask for one bucket, seldom, until its node's breaker is open."""
    async with asyncio.timeout(PATIENCE_S):
        while (await proxy.ask(asking(key, ROOMY))).reason != "breaker_open":
            await asyncio.sleep(0.02)


async def until_decided(proxy: Sidecar, key: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await proxy.ask(asking(key, ROOMY))).answer is not Answer.PASS:
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_a_hung_node_is_bypassed_while_the_others_go_on(
    cluster: ClusterTrio, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hung = cluster.nodes[0]
    hung_key, *_ = keys_of(cluster, hung)
    others = [key for node in cluster.nodes[1:] for key in keys_of(cluster, node)]
    name = f"127.0.0.1:{hung.port}"
    async with sidecar(cluster.url, timeout_s=0.2) as proxy:
        await until_decided(proxy, hung_key)
        hung.pause()
        try:
            await until_left_alone(proxy, hung_key)
            assert reasons(await all_of([proxy.ask(asking(hung_key, ROOMY)) for _ in range(50)])) == {"breaker_open"}
            verdicts = await all_of([proxy.ask(asking(key, ROOMY)) for key in others])
            assert {verdict.answer for verdict in verdicts} == {Answer.PASS}
            assert {node for node, state in states(proxy).items() if state is not BreakerState.CLOSED} == {name}
        finally:
            hung.resume()
        await until_decided(proxy, hung_key)
        assert set(states(proxy).values()) == {BreakerState.CLOSED}
    told = [record for record in caplog.records if record.getMessage().startswith("store_breaker")]
    assert [(record.getMessage(), record.fields["node"]) for record in told] == [  # type: ignore[attr-defined]
        ("store_breaker_open", name),
        ("store_breaker_closed", name),
    ]
    # The probe that closed it was of the slot that was asked about.
    assert hung.client.keys("example:probe-*") == [f"example:probe-{{{hung_key}}}".encode()]


@pytest.mark.slow
async def test_a_request_that_needs_a_bypassed_node_charges_nothing_elsewhere(cluster: ClusterTrio) -> None:
    hung, other, _ = cluster.nodes
    (hung_key, *_), (key, *_) = keys_of(cluster, hung), keys_of(cluster, other)
    async with sidecar(cluster.url, timeout_s=0.2) as proxy:
        hung.pause()
        try:
            await until_left_alone(proxy, hung_key)
            both = [proxy.ask(asking(key, ROOMY), asking(hung_key, ROOMY)) for _ in range(20)]
            assert reasons(await all_of(both)) == {"breaker_open"}
            assert not other.client.exists(key)
            # A shadow's bucket stands in nobody's way.
            verdict = await proxy.ask(asking(key, ROOMY), asking(hung_key, ROOMY, shadow=True))
            assert [level and level.tokens for level in verdict.levels] == [ROOMY.burst - 1, None]
        finally:
            hung.resume()


# -- the failure mode of each bucket ----------------------------------------------------------------------------------

ALLOW, DENY, LOCAL = OnStoreFailure.ALLOW, OnStoreFailure.DENY, OnStoreFailure.LOCAL
# The first requests find out that a node hangs, and the others know it.
HUNG_REQUESTS = 40


@contextlib.asynccontextmanager
async def with_one_hung(cluster: ClusterTrio) -> AsyncIterator[tuple[Sidecar, str, list[str]]]:
    """A sidecar on a Cluster of which one node hangs: a key of that node, and keys of the others."""
    hung = cluster.nodes[0]
    away, *_ = keys_of(cluster, hung)
    others = [key for node in cluster.nodes[1:] for key in keys_of(cluster, node)]
    # Three calls of the hung node fail before its breaker opens: in all less than the Cluster takes to call it dead.
    async with sidecar(cluster.url, timeout_s=0.3) as proxy:
        await until_decided(proxy, away)
        hung.pause()
        try:
            yield proxy, away, others
        finally:
            hung.resume()


async def one_after_the_other(proxy: Sidecar, *applied: PolicyMatch) -> list[Verdict]:
    verdicts = []
    for _ in range(HUNG_REQUESTS):
        proxy.deny_cache.clear()
        verdicts.append(await proxy.ask(*applied))
    return verdicts


@pytest.mark.slow
async def test_buckets_of_healthy_nodes_stay_exact_while_a_shared_one_that_allows_is_away(cluster: ClusterTrio) -> None:
    async with with_one_hung(cluster) as (proxy, away, users):
        for mode in (DENY, ALLOW, LOCAL):
            user = asking(f"{users.pop()}", hourly(10), on_store_failure=mode)
            everyone = asking(away, hourly(10), on_store_failure=ALLOW)
            verdicts = await one_after_the_other(proxy, user, everyone)
            assert [verdict.answer for verdict in verdicts] == [Answer.PASS] * 10 + [Answer.REFUSE] * 30
            assert {verdict.decided_by for verdict in verdicts} == {DecisionSource.STORE}
            outcomes = [policy_outcomes(verdict) for verdict in verdicts]
            assert outcomes[0] == [("p", Outcome.ALLOWED), ("p", Outcome.STORE_ALLOWED)]
            assert outcomes[-1][0] == ("p", Outcome.REFUSED)
            assert [verdict.passed_unchecked for verdict in verdicts] == [True] * 10 + [False] * 30


@pytest.mark.slow
async def test_a_bucket_that_denies_and_is_away_denies_and_costs_the_others_nothing(cluster: ClusterTrio) -> None:
    async with with_one_hung(cluster) as (proxy, away, (user, *_)):
        entry = asking(user, hourly(10), on_store_failure=ALLOW)
        verdicts = await one_after_the_other(proxy, entry, asking(away, hourly(10), on_store_failure=DENY))
        assert {verdict.answer for verdict in verdicts} == {Answer.UNAVAILABLE}
        assert reasons(verdicts) == {"timeout", "breaker_open"}
        assert {level.tokens for level in (await proxy.look(entry)).levels if level} == {10}


@pytest.mark.slow
async def test_this_proxys_share_decides_for_the_bucket_that_is_away(cluster: ClusterTrio) -> None:
    async with with_one_hung(cluster) as (proxy, away, (user, *_)):
        proxy.proxies = 3
        entry = asking(user, hourly(100), on_store_failure=DENY)
        verdicts = await one_after_the_other(proxy, entry, asking(away, hourly(12), on_store_failure=LOCAL))
        assert [verdict.answer for verdict in verdicts] == [Answer.PASS] * 4 + [Answer.REFUSE] * 36
        assert {verdict.decided_by for verdict in verdicts} == {DecisionSource.LOCAL}
        assert policy_outcomes(verdicts[0]) == [("p", Outcome.ALLOWED), ("p", Outcome.LOCAL_ALLOWED)]
        assert policy_outcomes(verdicts[-1]) == [("p", Outcome.ALLOWED), ("p", Outcome.LOCAL_REFUSED)]
        # The share's refusals cost the user nothing.
        assert [level and level.tokens for level in verdicts[-1].levels] == [96, 0]
        assert {level.tokens for level in (await proxy.look(entry)).levels if level} == {96}


@pytest.mark.slow
async def test_a_bucket_that_refused_before_and_hangs_does_not_keep_the_others_from_deciding(
    cluster: ClusterTrio,
) -> None:
    hung = cluster.nodes[0]
    away, *_ = keys_of(cluster, hung)
    user, *_ = keys_of(cluster, cluster.nodes[1])
    # Three calls of the hung node fail before its breaker opens: in all less than the Cluster takes to call it dead.
    async with sidecar(cluster.url, timeout_s=0.3) as proxy:
        everyone = asking(away, hourly(1), on_store_failure=ALLOW)
        entry = asking(user, hourly(10))
        assert [(await proxy.ask(entry, everyone)).answer for _ in range(2)] == [Answer.PASS, Answer.REFUSE]
        hung.pause()
        try:
            proxy.deny_cache.clear()
            verdict = await proxy.ask(entry, everyone)
            assert (verdict.answer, verdict.reason) == (Answer.PASS, "timeout")
            assert [level and level.tokens for level in verdict.levels] == [8, None]
        finally:
            hung.resume()


async def test_a_full_node_is_bypassed_until_it_has_room(cluster: ClusterTrio) -> None:
    full = cluster.nodes[0]
    key, *_ = keys_of(cluster, full)
    async with sidecar(cluster.url) as proxy:
        await until_decided(proxy, key)
        full.client.config_set("maxmemory", "1")
        try:
            await until_left_alone(proxy, key)
            breaker = proxy.limiter.breakers[f"127.0.0.1:{full.port}"]
            assert breaker.reason == "oom"
            assert sum(not each.closed for each in proxy.limiter.breakers.values()) == 1
        finally:
            full.client.config_set("maxmemory", "0")
        await until_decided(proxy, key)


async def test_an_unserved_slot_does_not_count_against_its_node(cluster: ClusterTrio) -> None:
    node = cluster.nodes[0]
    lost, kept = (key for key in keys_of(cluster, node, 2))
    async with sidecar(cluster.url) as proxy:
        await until_decided(proxy, kept)
        cluster.call(node, "DELSLOTS", slot_of(lost))
        try:
            for _ in range(4 * FAILURES_TO_OPEN):
                assert (await proxy.ask(asking(lost, ROOMY))).reason == "clusterdown"
                await asyncio.sleep(0.015)
            assert (await proxy.ask(asking(kept, ROOMY))).answer is Answer.PASS
            assert set(states(proxy).values()) == {BreakerState.CLOSED}
        finally:
            cluster.call(node, "ADDSLOTS", slot_of(lost))
        eventually(lambda: cluster.owner(slot_of(lost)) is node, "the slot is served again")
        await until_decided(proxy, lost)


async def test_buckets_of_a_migrating_slot_do_not_count_against_its_nodes(cluster: ClusterTrio) -> None:
    seen: dict[int, str] = {}
    key = next(key for number in range(100_000) if seen.setdefault(slot_of(key := f"k{number}"), key) != key)
    one, slot = seen[slot_of(key)], slot_of(key)
    async with sidecar(cluster.url, timeout_s=0.1) as proxy:
        await until_decided(proxy, one)
        target = next(node for node in cluster.nodes if node is not cluster.owner(slot))
        cluster.begin_to_move(slot, target)
        try:
            for _ in range(2 * FAILURES_TO_OPEN):
                assert (await proxy.ask(asking(one), asking(key))).reason == "timeout"
            assert set(states(proxy).values()) == {BreakerState.CLOSED}
        finally:
            cluster.end_move(slot, target)


async def test_unpayable_debts_are_not_retried_at_every_answer_of_another_node() -> None:
    class Away:
        """Of a Cluster: the node that the debt is owed to is not connected."""

        asked = 0

        def ask(self, charges: list[Charge], then: OnLevels) -> None:
            self.asked += 1
            then(StoreUnavailable("connect"), 0.0)

    local, away = LocalStore(), Away()
    local.decide([asking("k", on_store_failure=OnStoreFailure.LOCAL)], 1, 0)
    store: Any = away
    settlement = Settlement(store, local)
    for _ in range(100):
        settlement.begin()
    assert (away.asked, local.owes) == (1, True)
    settlement.resume()
    assert (away.asked, local.owes) == (2, True)


@pytest.mark.slow
def test_status_and_top_name_the_node_whose_breaker_is_open(cluster: ClusterTrio) -> None:
    recorder, node = Recorder(), cluster.nodes[1]
    name = f"127.0.0.1:{node.port}"
    config = configuration(cluster.url, recorder.url, store={"timeout": "50ms"})
    with Process(config) as running:

        def breakers() -> dict[str, str]:
            for number in range(12):
                get(running.port, "/a", f"X-User-ID: u{number}")
            found = ask(running, "/timeline?seconds=1")[2]["state"]["store"]["breakers"]
            return {each["node"]: each["state"] for each in found}

        assert set(breakers()) == {f"127.0.0.1:{each.port}" for each in cluster.nodes}
        node.pause()
        try:
            eventually(lambda: breakers()[name] != "closed", "the breaker of the node that hangs")
            assert list(breakers().values()).count("closed") == 2
            admin = f"http://127.0.0.1:{running.admin_port}"

            def shown(*command: str) -> str:
                return " ".join(run_command(*command, "--admin", admin).stdout.split())

            eventually(lambda: f"breaker of {name}" in shown("top", "--once"), "the state of the next second")
            assert re.search(rf"breaker of {name} (open|probing): timeout", shown("status"))
        finally:
            node.resume()
        eventually(lambda: set(breakers().values()) == {"closed"}, "all of them to be asked again")
    recorder.stop()
