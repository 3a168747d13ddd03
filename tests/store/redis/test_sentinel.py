"""The store behind Sentinels: the master is found and followed; a replica is never used."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis.asyncio.sentinel
from sidegate.config import StoreSettings
from sidegate.decision.verdict import Answer
from sidegate.store.protocol import StoreUnavailable
from sidegate.store.redis import single_store
from sidegate.store.redis.connection import MultiplexedConnection
from sidegate.store.redis.connector import Connector
from sidegate.store.redis.node import Node

from tests.conftest import StartStore
from tests.recorder import eventually
from tests.servers import free_port
from tests.store.sidecar import PATIENCE_S, Sidecar, asking, hourly, sidecar
from tests.topologies import DOWN_AFTER_S, SERVICE, SentinelServer, SentinelTrio


@pytest.fixture(scope="session")
def shared_sentinels() -> Iterator[SentinelTrio]:
    trio = SentinelTrio()
    yield trio
    trio.stop()


@pytest.fixture
def own_sentinels() -> Iterator[SentinelTrio]:
    trio = SentinelTrio()
    yield trio
    trio.stop()


@pytest.fixture
def sentinels(shared_sentinels: SentinelTrio) -> SentinelTrio:
    shared_sentinels.master.client.flushall()
    return shared_sentinels


async def until_decided(proxy: Sidecar) -> float:
    """Ask until the store decides; returns when, by the monotonic clock."""
    await proxy.until(connected=True)
    while (await proxy.ask(asking("probe", hourly(1_000_000)))).answer is not Answer.PASS:
        await proxy.until(connected=True)
    return time.monotonic()


async def test_the_master_is_found_and_charged(sentinels: SentinelTrio) -> None:
    async with sidecar(sentinels.url) as proxy:
        assert (await proxy.ask(asking("k"))).answer is Answer.PASS
        assert sentinels.master.client.hget("k", "tokens") == b"9"


async def test_one_reachable_sentinel_is_enough(sentinels: SentinelTrio) -> None:
    last = sentinels.sentinels[-1].port
    url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{free_port()},127.0.0.1:{last}/{SERVICE}"
    async with sidecar(url) as proxy:
        assert (await proxy.ask(asking("k"))).answer is Answer.PASS


async def test_a_service_that_no_sentinel_knows_is_reported_as_an_outage(sentinels: SentinelTrio) -> None:
    async with sidecar(sentinels.url.replace(SERVICE, "another"), connected=False) as proxy:
        verdict = await proxy.ask(asking("k"))
        assert (verdict.answer, verdict.reason) == (Answer.UNAVAILABLE, "no_master")


async def test_a_sentinels_port_as_the_port_of_a_store_is_named(sentinels: SentinelTrio) -> None:
    url = f"redis://127.0.0.1:{sentinels.sentinels[0].port}"
    async with sidecar(url, connected=False, username="", password="") as proxy:
        assert (await proxy.ask(asking("k"))).reason == "wrong_role"
        assert "redis+sentinel://" in str(proxy.failures[-1])


@pytest.mark.slow
async def test_a_requested_failover_is_followed_while_the_old_master_still_answers(
    own_sentinels: SentinelTrio,
) -> None:
    after = own_sentinels.replica
    async with sidecar(own_sentinels.url) as proxy:
        bucket = asking("k", hourly(1_000_000))
        await proxy.ask(bucket)
        eventually(lambda: after.client.exists("k"), "the replica has the bucket")
        own_sentinels.sentinels[0].client.sentinel_failover(SERVICE)
        async with asyncio.timeout(PATIENCE_S):
            while after.calls("evalsha") + after.calls("eval") == 0:
                await asyncio.gather(*(proxy.ask(bucket) for _ in range(20)))
                await asyncio.sleep(0.005)
        assert after.client.role()[0] == b"master"
        held = int(after.client.hget("k", "tokens") or 0)
        assert (await proxy.ask(bucket)).answer is Answer.PASS
        assert after.client.hget("k", "tokens") == b"%d" % (held - 1)


def _has_subscriber(sentinel: SentinelServer) -> bool:
    clients: Any = sentinel.client.client_list()
    return any(client["sub"] != "0" for client in clients)


@pytest.mark.slow
async def test_a_failover_is_announced_by_the_sentinels_though_one_is_down(
    own_sentinels: SentinelTrio,
) -> None:
    announced = asyncio.Event()
    url = f"redis+sentinel://127.0.0.1:{free_port()},{own_sentinels.url.removeprefix('redis+sentinel://')}"
    connector = Connector(StoreSettings.model_validate({"url": url}), 1)  # one of its Sentinels does not run
    listening = asyncio.get_running_loop().create_task(connector.watch_switches(announced.set))
    try:
        await asyncio.to_thread(
            eventually,
            lambda: all(_has_subscriber(each) for each in own_sentinels.sentinels),
            "all Sentinels have a subscriber",
        )
        assert not announced.is_set()
        own_sentinels.sentinels[0].client.sentinel_failover(SERVICE)
        async with asyncio.timeout(PATIENCE_S):
            await announced.wait()
    finally:
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening


async def test_a_renewal_ends_the_pause_before_the_next_attempt_to_connect(start_store: StartStore) -> None:
    attempts = 0

    async def refused() -> MultiplexedConnection:
        nonlocal attempts
        attempts += 1
        raise StoreUnavailable("connect")

    node = Node(refused, lambda _: None, longest_pause_s=1e6)
    task = asyncio.get_running_loop().create_task(node.keep_connected())
    try:
        async with asyncio.timeout(PATIENCE_S):
            for wanted in range(1, 30):  # without renewals the last pause alone is days long
                while attempts < wanted:
                    node.renew()
                    await asyncio.sleep(0)
    finally:
        task.cancel()


@pytest.mark.slow
async def test_a_master_that_crashes_is_followed_to_its_replica(own_sentinels: SentinelTrio) -> None:
    before, after = own_sentinels.master, own_sentinels.replica
    async with sidecar(own_sentinels.url) as proxy:
        await until_decided(proxy)
        before.kill()
        await proxy.until(connected=False)
        killed_s = time.monotonic()
        took_s = await until_decided(proxy) - killed_s
        assert after.calls("evalsha") + after.calls("eval") > 0
        assert took_s >= DOWN_AFTER_S / 2  # it was the failover that was waited for


async def test_a_demoted_master_that_still_answers_is_replaced(
    start_store: StartStore,
) -> None:
    old, new = start_store(), start_store()
    sentinel = SentinelServer(old.port)
    try:
        async with sidecar(f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}") as proxy:
            await proxy.ask(asking("k", hourly(1_000_000)))
            sentinel.client.sentinel_remove(SERVICE)
            sentinel.client.sentinel_monitor(SERVICE, "127.0.0.1", new.port, 1)
            async with asyncio.timeout(PATIENCE_S):
                while not new.client.exists("k"):
                    assert (await proxy.ask(asking("k", hourly(1_000_000)))).answer is Answer.PASS
                    await asyncio.sleep(0.005)
            assert proxy.failures == [None]  # nobody noticed
    finally:
        sentinel.stop()


async def test_the_store_follows_an_announced_master_at_once(
    start_store: StartStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[Callable[[], None]] = []

    async def watch_switches(_: Connector, on_switch: Callable[[], None]) -> None:
        announced.append(on_switch)
        await asyncio.Event().wait()

    monkeypatch.setattr(Connector, "watch_switches", watch_switches)
    monkeypatch.setattr(single_store, "QUERY_SENTINELS_EVERY_S", 1e6)  # it would never find out by itself
    old, new = start_store(), start_store()
    sentinel = SentinelServer(old.port)
    try:
        async with sidecar(f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}") as proxy:
            await proxy.ask(asking("k", hourly(1_000_000)))
            sentinel.client.sentinel_remove(SERVICE)
            sentinel.client.sentinel_monitor(SERVICE, "127.0.0.1", new.port, 1)
            (on_switch,) = announced
            on_switch()
            async with asyncio.timeout(PATIENCE_S):
                while not new.client.exists("k"):
                    await proxy.ask(asking("k", hourly(1_000_000)))
                    await asyncio.sleep(0.005)
    finally:
        sentinel.stop()


async def test_a_replica_that_a_sentinel_names_as_master_is_not_used(start_store: StartStore) -> None:
    replica = start_store()
    replica.client.set("k", "untouched")
    sentinel = SentinelServer(replica.port)
    try:
        replica.client.replicaof("127.0.0.1", str(free_port()))
        async with sidecar(f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}", connected=False) as proxy:
            verdict = await proxy.ask(asking("k"))
            assert (verdict.answer, verdict.reason) == (Answer.UNAVAILABLE, "readonly")
            assert replica.calls("evalsha") == 0
    finally:
        sentinel.stop()


async def test_sentinels_have_a_password_of_their_own(start_store: StartStore) -> None:
    master = start_store(password="the master's")
    sentinel = SentinelServer(master.port, f'sentinel auth-pass {SERVICE} "the master\'s"')
    try:
        sentinel.client.acl_setuser("watcher", enabled=True, passwords=["+pw"], categories=["+@all"], channels=["*"])
        sentinel.client.acl_setuser("default", enabled=False)
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}"
        async with sidecar(url, password="the master's", sentinel_username="watcher", sentinel_password="pw") as proxy:
            assert (await proxy.ask(asking("k"))).answer is Answer.PASS
        async with sidecar(url, password="the master's", connected=False) as proxy:
            assert (await proxy.ask(asking("k"))).reason == "no_master"
    finally:
        sentinel.stop()


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancellation_that_redis_py_swallows_ends_the_question_for_the_master(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    async def discover(*_: object) -> tuple[str, int]:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(PATIENCE_S)
        if fails:
            raise ConnectionError
        return "127.0.0.1", 6379

    monkeypatch.setattr(redis.asyncio.sentinel.Sentinel, "discover_master", discover)
    settings = StoreSettings.model_validate({"url": f"redis+sentinel://127.0.0.1:{free_port()}/{SERVICE}"})
    asking_sentinels = asyncio.get_running_loop().create_task(Connector(settings, 1).master())
    await asyncio.sleep(0)
    asking_sentinels.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking_sentinels
