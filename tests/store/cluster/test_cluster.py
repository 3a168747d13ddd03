"""The store on a Cluster: all slots, migrations, lost nodes; never more admitted than by one server."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidegate.config import StoreSettings
from sidegate.decision.bucket import Bucket, Charge, Limit, Rate
from sidegate.decision.charging import decide, passed
from sidegate.decision.stored import Found
from sidegate.decision.verdict import Answer, DecisionSource, Verdict
from sidegate.store.cluster.slots import SLOTS, slot_of
from sidegate.store.housekeeping import Housekeeping
from sidegate.store.redis.inspect import NAMES_A_STEP, STEPS, Buckets
from sidegate.store.redis.inspect_client import client
from sidegate.store.replicas import Replicas

from tests.admin.admin_client import ask
from tests.raw_client import get
from tests.recorder import Recorder, eventually
from tests.servers import USER, StoreServer
from tests.sidecar import Sidecar as Process
from tests.sidecar import configuration, run_command
from tests.store.sidecar import PATIENCE_S, Sidecar, all_of, asking, hourly, sidecar
from tests.topologies import ClusterTrio

ROOMY = hourly(1_000_000)


def held(cluster: ClusterTrio, key: str) -> int:
    """Tokens of a bucket, asked of the node that has it."""
    return int(cluster.owner(slot_of(key)).client.hget(key, "tokens") or -1)


def elsewhere(cluster: ClusterTrio, key: str) -> StoreServer:
    """A node that does not have the key."""
    owner = cluster.owner(slot_of(key))
    return next(node for node in cluster.nodes if node is not owner)


def in_one_slot() -> tuple[str, str]:
    """Two keys of one slot."""
    seen: dict[int, str] = {}
    for number in range(100_000):
        key = f"k{number}"
        if (other := seen.setdefault(slot_of(key), key)) != key:
            return other, key
    raise LookupError


def answers(verdicts: list[Verdict]) -> Counter[tuple[Answer, str]]:
    return Counter((verdict.answer, verdict.reason) for verdict in verdicts)


# -- slots ------------------------------------------------------------------------------------------------------------


async def test_requests_of_all_slots_are_decided_by_their_nodes(cluster: ClusterTrio) -> None:
    async with sidecar(cluster.url) as proxy:
        verdicts = await all_of([proxy.ask(asking(f"k{number % 100}", hourly(3))) for number in range(500)])
        assert answers(verdicts) == {(Answer.PASS, ""): 300, (Answer.REFUSE, ""): 200}
        assert [node.client.dbsize() > 10 for node in cluster.nodes] == [True] * 3
        assert proxy.failures == [None]


async def test_keys_and_eviction_of_all_masters_are_watched(
    cluster: ClusterTrio, caplog: pytest.LogCaptureFixture
) -> None:
    last = cluster.nodes[-1]
    async with sidecar(cluster.url) as proxy:
        await all_of([proxy.ask(asking(f"k{number}")) for number in range(90)])
        stored = sum(node.client.dbsize() for node in cluster.nodes)
        last.client.config_set("maxmemory-policy", "allkeys-lru")
        last.client.config_set("maxmemory", "100mb")
        watch = Housekeeping(proxy.store, Replicas(proxy.store, 3), 80)  # no node alone has as many
        task = asyncio.get_running_loop().create_task(watch.run())
        try:
            async with asyncio.timeout(PATIENCE_S):
                while len(caplog.records) < 2:
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
            last.client.config_set("maxmemory", "0")
            last.client.config_set("maxmemory-policy", "noeviction")
    assert watch.keys == stored
    fields: Any = {record.getMessage(): record.__dict__["fields"] for record in caplog.records}
    assert fields["store_many_buckets"]["keys"] == stored
    assert fields["store_evicts"]["node"] == f"127.0.0.1:{last.port}"


async def test_one_node_of_the_cluster_is_enough_to_find_the_others(cluster: ClusterTrio) -> None:
    async with sidecar(f"redis+cluster://127.0.0.1:{cluster.nodes[1].port}") as proxy:
        verdicts = await all_of([proxy.ask(asking(f"k{number}")) for number in range(60)])
        assert answers(verdicts) == {(Answer.PASS, ""): 60}


async def test_commands_and_pings_reach_the_nodes(cluster: ClusterTrio) -> None:
    async with sidecar(cluster.url) as proxy:
        replies: list[object] = []
        for number in range(10):
            proxy.store.command(f"k{number}", ("HGET", f"k{number}", "tokens"), replies.append)
        proxy.store.ping(replies.append)
        async with asyncio.timeout(PATIENCE_S):
            while len(replies) < 11:
                await asyncio.sleep(0.001)
        assert Counter(replies) == {None: 10, b"PONG": 1}


# -- buckets of one request in several slots --------------------------------------------------------------------------


async def test_a_refusal_in_one_slot_gives_back_the_charges_of_the_others(cluster: ClusterTrio) -> None:
    async with sidecar(cluster.url) as proxy:
        wide, narrow = asking("wide", hourly(100)), asking("narrow", hourly(3), shadow=False)
        verdicts = [await proxy.ask(wide, asking("trial", hourly(50), shadow=True), narrow) for _ in range(3)]
        proxy.deny_cache.clear()
        refused = await proxy.ask(wide, asking("trial", hourly(50), shadow=True), narrow)
        assert [verdict.answer for verdict in (*verdicts, refused)] == [Answer.PASS] * 3 + [Answer.REFUSE]
        assert [level and level.tokens for level in refused.levels] == [97, 47, 0]
        assert [level and level.tokens for level in (await proxy.look(wide, narrow)).levels] == [97, 0]
        assert (held(cluster, "wide"), held(cluster, "trial"), held(cluster, "narrow")) == (97, 47, 0)


async def test_an_unreadable_bucket_gives_back_the_charges_of_the_others(cluster: ClusterTrio) -> None:
    cluster.owner(slot_of("poisoned")).client.set("poisoned", "a string")
    async with sidecar(cluster.url) as proxy:
        verdict = await proxy.ask(asking("wide"), asking("poisoned"))
        assert (verdict.answer, verdict.reason) == (Answer.UNAVAILABLE, "unreadable_bucket")
        assert [level and level.tokens for level in (await proxy.look(asking("wide"))).levels] == [10]


async def test_what_grew_while_tokens_were_reserved_is_not_given_back_twice(cluster: ClusterTrio) -> None:
    fast = Limit(Rate(1000, 1_000_000), 10, 10, 1)
    async with sidecar(cluster.url) as proxy:
        for _ in range(50):
            proxy.deny_cache.clear()
            await proxy.ask(asking("fast", fast, cost=5), asking("never", hourly(1), cost=2))
            (level,) = (await proxy.look(asking("fast", fast))).levels
            assert level is not None
            assert level.tokens <= 10


KEYS = ["a", "b", "c", "d", "e"]
REQUESTS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(KEYS), st.integers(0, 4), st.booleans()),
        min_size=1,
        max_size=4,
        unique_by=lambda c: c[0],
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.slow
@pytest.mark.long
def test_a_cluster_decides_one_request_after_the_other_as_one_server_does(cluster: ClusterTrio) -> None:
    limits = {key: hourly(size) for key, size in zip(KEYS, (2, 3, 5, 8, 13), strict=True)}
    examples = 0

    async def decide_all(proxy: Sidecar, requests: list[list[Charge]]) -> None:
        stored: dict[str, Bucket] = {}
        for charges in requests:
            (levels,) = decide([charges], stored, 0)
            proxy.deny_cache.clear()
            verdict = await proxy.ask(*(asking(c.key, c.limit, c.cost, shadow=c.shadow) for c in charges))
            assert (verdict.answer is Answer.PASS) == passed(charges, levels)
            for found, level in zip(verdict.levels, levels, strict=True):
                # Where a bucket that is likely to refuse does so, the others are not read.
                if found is not None or verdict.answer is Answer.PASS:
                    assert found is not None
                    assert (found.tokens, found.enough) == (level.tokens, level.enough)

    with asyncio.Runner() as runner:
        connected = sidecar(cluster.url)
        proxy = runner.run(connected.__aenter__())

        @given(requests=REQUESTS)
        def search(requests: list[list[tuple[str, int, bool]]]) -> None:
            nonlocal examples
            examples += 1  # keys of its own
            charges = [
                [Charge(f"{key}{examples}", limits[key], cost, shadow) for key, cost, shadow in each]
                for each in requests
            ]
            runner.run(decide_all(proxy, charges))

        try:
            search()
        finally:
            runner.run(connected.__aexit__(None, None, None))


@pytest.mark.slow
async def test_three_sidecars_that_reserve_from_each_other_never_admit_more_than_the_buckets_hold(
    cluster: ClusterTrio,
) -> None:
    """Requests of two buckets each, of eight, in every combination: what is admitted on each is what it held at most."""
    limits = {f"k{number}": hourly(40 + number) for number in range(8)}
    admitted: Counter[str] = Counter()
    async with sidecar(cluster.url) as one, sidecar(cluster.url) as two, sidecar(cluster.url) as three:

        async def demand(proxy: Sidecar, first: str, second: str) -> None:
            for _ in range(12):
                proxy.deny_cache.clear()
                verdict = await proxy.ask(asking(first, limits[first]), asking(second, limits[second]))
                assert verdict.decided_by is DecisionSource.STORE, verdict.reason
                if verdict.answer is Answer.PASS:
                    admitted.update((first, second))

        pairs = [(first, second) for first in limits for second in limits if first != second]
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(demand((one, two, three)[at % 3], *pair) for at, pair in enumerate(pairs)))
        for key, limit in limits.items():
            assert 0 < admitted[key] <= limit.burst
            (level,) = (await one.look(asking(key, limit))).levels
            assert level is not None
            # Nothing was lost either: what was not admitted is there again, but for what grows in the meantime.
            assert limit.burst - 1 <= admitted[key] + level.tokens <= limit.burst


@pytest.mark.long
@pytest.mark.slow
async def test_buckets_that_fill_fast_admit_no_more_than_burst_and_rate_while_they_are_reserved_from(
    cluster: ClusterTrio,
) -> None:
    """Requests of two or three buckets in several slots, many of them refused by a tight one, from three sidecars."""
    limits = {f"fast{number}": Limit(Rate(150 + 50 * number, 1_000_000), 10, 10, 60_000) for number in range(6)}
    tight = Limit(Rate(40, 1_000_000), 5, 5, 60_000)
    limits |= {f"tight{number}": tight for number in range(3)}
    keys = list(limits)
    admitted: Counter[str] = Counter()
    demanding = True

    def clock_us(key: str) -> int:
        return cluster.owner(slot_of(key)).time_us()

    async with sidecar(cluster.url) as one, sidecar(cluster.url) as two, sidecar(cluster.url) as three:

        async def demand(proxy: Sidecar, turn: int) -> None:
            while demanding:
                turn += 1
                wanted = {keys[turn % 9], keys[(turn * 4 + 3) % 9], keys[(turn // 9 + 5) % 9]}
                proxy.deny_cache.clear()
                verdict = await proxy.ask(*(asking(key, limits[key]) for key in sorted(wanted)))
                assert verdict.decided_by is DecisionSource.STORE, verdict.reason
                if verdict.answer is Answer.PASS:
                    admitted.update(wanted)

        begun_us = {key: clock_us(key) for key in keys}
        tasks = [asyncio.get_running_loop().create_task(demand((one, two, three)[at % 3], at * 5)) for at in range(24)]
        await asyncio.sleep(1.5)
        demanding = False
        await asyncio.gather(*tasks)
    for key, limit in limits.items():
        span_us = clock_us(key) - begun_us[key]
        assert 0 < admitted[key] <= limit.burst + limit.rate.tokens * span_us / limit.rate.period_us


# -- slots that move --------------------------------------------------------------------------------------------------


async def test_a_slot_that_has_moved_is_followed(cluster: ClusterTrio) -> None:
    async with sidecar(cluster.url) as proxy:
        assert (await proxy.ask(asking("k"))).levels[0].tokens == 9  # type: ignore[union-attr]
        target = elsewhere(cluster, "k")
        cluster.move(slot_of("k"), target)
        assert (await proxy.ask(asking("k"))).levels[0].tokens == 8  # type: ignore[union-attr]
        assert target.client.hget("k", "tokens") == b"8"
        assert proxy.failures == [None]


async def test_a_slot_in_migration_is_used_on_both_nodes(cluster: ClusterTrio) -> None:
    one, two = in_one_slot()
    slot = slot_of(one)
    async with sidecar(cluster.url) as proxy:
        await proxy.ask(asking(one))
        target = elsewhere(cluster, one)
        source = cluster.begin_to_move(slot, target)
        try:
            # A new bucket begins at the node that will have it, in one turn with one that is still where it was.
            verdicts = await all_of([proxy.ask(asking(key)) for key in (one, two, one, two)])
            assert answers(verdicts) == {(Answer.PASS, ""): 4}
            assert source.client.hget(one, "tokens") == b"7"
            client: Any = source.client
            client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", one)
            both = await proxy.ask(asking(one), asking(two))
            assert [level and level.tokens for level in both.levels] == [6, 7]
        finally:
            cluster.end_move(slot, target)
        assert (await proxy.ask(asking(one))).levels[0].tokens == 5  # type: ignore[union-attr]
        assert proxy.failures == [None]


async def test_two_buckets_of_a_migrating_slot_wait_at_most_the_timeout(
    cluster: ClusterTrio,
) -> None:
    one, two = in_one_slot()
    slot = slot_of(one)
    async with sidecar(cluster.url, timeout_s=0.2) as proxy:
        await proxy.ask(asking(one))
        target = elsewhere(cluster, one)
        cluster.begin_to_move(slot, target)
        try:
            verdict = await proxy.ask(asking(one), asking(two))
            assert (verdict.answer, verdict.reason) == (Answer.UNAVAILABLE, "timeout")
        finally:
            cluster.end_move(slot, target)


@pytest.mark.slow
async def test_nothing_is_lost_or_admitted_twice_while_slots_move_under_load(cluster: ClusterTrio) -> None:
    keys = [f"k{number}" for number in range(12)]
    admitted: Counter[str] = Counter()
    moving = True
    async with sidecar(cluster.url) as one, sidecar(cluster.url) as two:

        async def demand(proxy: Sidecar, number: int) -> None:
            turn = number
            while moving:
                turn += 1
                wanted = [keys[turn % 12]] if turn % 3 else [keys[turn % 12], keys[(turn + 7) % 12]]
                await asyncio.sleep(0.001)  # leaves the servers some of the machine
                verdict = await proxy.ask(*(asking(key, ROOMY) for key in wanted))
                assert verdict.answer is Answer.PASS, verdict.reason
                admitted.update(wanted)

        tasks = [asyncio.get_running_loop().create_task(demand((one, two)[at % 2], at * 5)) for at in range(8)]
        try:
            for key in keys:
                await asyncio.to_thread(cluster.move, slot_of(key), elsewhere(cluster, key))
        finally:
            moving = False
            await asyncio.gather(*tasks)
        assert one.failures == two.failures == [None]
    assert {key: ROOMY.burst - held(cluster, key) for key in keys} == dict(admitted)


@pytest.mark.slow
@pytest.mark.long
async def test_a_node_that_is_added_takes_over_a_range_of_slots_under_load() -> None:
    """Of a Cluster's first node, a tenth of its slots with all that is in them, while two sidecars charge them."""
    cluster = ClusterTrio()
    try:
        giver, last = cluster.owner(0), SLOTS // 3 // 10
        keys = [key for key in (f"k{number}" for number in range(1_000)) if slot_of(key) <= last]
        others = [f"other{number}" for number in range(20)]
        admitted: Counter[str] = Counter()
        moving = True
        async with sidecar(cluster.url) as one, sidecar(cluster.url) as two:

            async def demand(proxy: Sidecar, turn: int) -> None:
                while moving:
                    turn += 1
                    wanted = [keys[turn % len(keys)]]
                    wanted += [others[turn % len(others)]] if turn % 3 == 0 else []
                    await asyncio.sleep(0.002)  # leaves the servers some of the machine
                    verdict = await proxy.ask(*(asking(key, ROOMY) for key in wanted))
                    assert verdict.answer is Answer.PASS, verdict.reason
                    admitted.update(wanted)

            tasks = [asyncio.get_running_loop().create_task(demand((one, two)[at % 2], at * 7)) for at in range(8)]
            try:
                added = await asyncio.to_thread(cluster.add_master)
                for slot in range(last + 1):
                    await asyncio.to_thread(cluster.move, slot, added)
                assert added.calls("evalsha") > 0
            finally:
                moving = False
                await asyncio.gather(*tasks)
            assert one.failures == two.failures == [None]
            assert giver.client.dbsize() == sum(cluster.owner(slot_of(key)) is giver for key in admitted)
            assert {cluster.owner(slot_of(key)) for key in keys} == {added}
        assert {key: ROOMY.burst - held(cluster, key) for key in admitted} == dict(admitted)
    finally:
        cluster.stop()


# -- nodes that die ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_dead_node_fails_its_own_slots_alone_until_its_replica_takes_them(own_cluster: ClusterTrio) -> None:
    victim, replica = own_cluster.nodes[0], own_cluster.add_replica(own_cluster.nodes[0])
    keys = {own_cluster.owner(slot_of(f"k{number}")): f"k{number}" for number in range(60)}
    async with sidecar(own_cluster.url) as proxy:
        verdicts = await all_of([proxy.ask(asking(key, ROOMY)) for key in keys.values()])
        assert answers(verdicts) == {(Answer.PASS, ""): 3}
        eventually(replica.client.dbsize, "the replica has the bucket")
        victim.kill()
        async with asyncio.timeout(PATIENCE_S):
            while len(proxy.failures) == 1:
                await asyncio.sleep(0.005)
        assert str(victim.port) in str(proxy.failures[1])
        assert proxy.store.failure is None  # the others can be asked
        failed = await proxy.ask(asking(keys[victim], ROOMY))
        assert failed.answer is Answer.UNAVAILABLE
        others = await all_of([proxy.ask(asking(key, ROOMY)) for node, key in keys.items() if node is not victim])
        assert answers(others) == {(Answer.PASS, ""): 2}
        async with asyncio.timeout(PATIENCE_S):
            while (await proxy.ask(asking(keys[victim], ROOMY))).answer is not Answer.PASS:
                await asyncio.sleep(0.02)
        assert replica.client.hget(keys[victim], "tokens") == b"%d" % (ROOMY.burst - 2)
        async with asyncio.timeout(PATIENCE_S):
            while proxy.failures[-1] is not None:
                await asyncio.sleep(0.02)


@pytest.fixture
def own_cluster() -> Iterator[ClusterTrio]:
    cluster = ClusterTrio("--cluster-require-full-coverage", "no", "--cluster-node-timeout", "1000")
    yield cluster
    cluster.stop()


async def test_a_cluster_without_slots_or_nodes_is_an_outage(start_store: Any) -> None:
    empty = start_store("--cluster-enabled", "yes")
    async with sidecar(f"redis+cluster://127.0.0.1:{empty.port}", connected=False) as proxy:
        assert (await proxy.ask(asking("k"))).reason == "clusterdown"
    async with sidecar(f"redis+cluster://127.0.0.1:{start_store().port}", connected=False) as proxy:
        assert (await proxy.ask(asking("k"))).reason == "no_slots"


# -- the client for what is not a decision ----------------------------------------------------------------------------


async def test_a_client_goes_through_the_keys_of_all_nodes(cluster: ClusterTrio) -> None:
    keys = {f"example:p:{number}" for number in range(20)}
    async with sidecar(cluster.url) as proxy:
        await all_of([proxy.ask(asking(key)) for key in keys])
    found = client(StoreSettings.model_validate({"url": cluster.url}))
    try:
        assert {str(key, "ascii") async for key in found.scan_iter(match="example:*")} == keys
        for key in keys:
            assert await found.hmget(key, ["tokens"]) == [b"9"]
            assert await found.delete(key) == 1
    finally:
        await found.aclose()


async def test_the_admin_pages_find_read_and_reset_buckets_of_all_nodes(cluster: ClusterTrio) -> None:
    names = {f"example:p:{number}" for number in range(20)}
    async with sidecar(cluster.url) as proxy:
        await all_of([proxy.ask(asking(name)) for name in names])
    found = Buckets(StoreSettings.model_validate({"url": cluster.url}))
    try:
        assert {each.name for each in (await found.find("example:p:", "", "", 100)).buckets} == names
        assert len((await found.find("example:p:", "", "", 5)).buckets) < len(names)
        assert await found.reset("example:p:7")
        assert await found.read("example:p:7") is None
    finally:
        await found.close()


async def test_the_pages_of_buckets_go_through_all_nodes_in_bounded_steps(cluster: ClusterTrio) -> None:
    names = {f"example:p:{number}" for number in range(6_000)}
    writer: Any = client(StoreSettings.model_validate({"url": cluster.url}))
    async with writer, writer.pipeline() as pipeline:
        for name in names:
            pipeline.hset(name, "tokens", 1)
        await pipeline.execute()
    for node in cluster.nodes:
        assert node.client.dbsize(), "every node has some"
        node.client.config_resetstat()
    found = Buckets(StoreSettings.model_validate({"url": cluster.url, "username": USER, "password": USER}))
    seen: list[str] = []
    cursor, answers = "", 0
    try:
        while answers == 0 or cursor:
            page = await found.find("example:p:", "", cursor, 500)
            assert len(page.buckets) <= 500 + 2 * NAMES_A_STEP
            seen += [each.name for each in page.buckets]
            cursor, answers = page.cursor, answers + 1
        assert sorted(seen) == sorted(names)
        assert answers >= 6_000 / (500 + 2 * NAMES_A_STEP)
        assert sum(node.calls("keys") for node in cluster.nodes) == 0
        calls = sum(node.calls("scan") for node in cluster.nodes)
        assert not (await found.find("example:none:", "", "", 500)).buckets
        assert sum(node.calls("scan") for node in cluster.nodes) - calls <= STEPS
        # A node that is not there any more: on with the next one in their order, or the end.
        assert await found.find("example:p:", "", "5@~", 500) == Found([], "")
        assert (await found.find("example:p:", "", "5@0", 500)).buckets
    finally:
        await found.close()


@pytest.mark.slow
def test_a_sidecar_and_its_command_list_the_buckets_of_all_nodes(cluster: ClusterTrio) -> None:
    recorder = Recorder()
    with Process(configuration(cluster.url, recorder.url)) as running:
        for number in range(60):
            get(running.port, "/a", f"X-User-ID: u{number}")
        admin = f"http://127.0.0.1:{running.admin_port}"
        listed = run_command("buckets", "list", "--json", "--limit", "1000", "--policy", "roomy", "--admin", admin)
        assert {each["key"] for each in json.loads(listed.stdout)["buckets"]} == {f"u{number}" for number in range(60)}
        keys, cursor = set(), ""
        while cursor is not None:
            page = ask(running, "/buckets?policy=roomy&limit=1" + (f"&cursor={cursor}" if cursor else ""))[2]
            keys |= {each["key"] for each in page["buckets"]}
            cursor = page["cursor"]
        assert len(keys) == 60
    recorder.stop()
