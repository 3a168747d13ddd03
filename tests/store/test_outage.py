"""Breaker, local shares and debts, on real stores and on a fake one with faults."""

import asyncio
import logging
from collections import Counter
from fractions import Fraction

import pytest
from sidegate.decision.policy import OnStoreFailure
from sidegate.decision.verdict import Answer, DecisionSource, Outcome, Verdict, outcome_of
from sidegate.store.awaiting import answer_of
from sidegate.store.breaker import FAILURES_TO_OPEN, BreakerState
from sidegate.store.housekeeping import Housekeeping
from sidegate.store.replicas import ENTRY_LIFE_S, Replicas

from tests.conftest import StartStore
from tests.servers import StoreServer, free_port
from tests.store.fake_store import SILENCE, FakeStore, fake_store
from tests.store.sidecar import PATIENCE_S, Sidecar, all_of, asking, hourly, sidecar

ONE_LEFT = b"*3\r\n:1\r\n:0\r\n:TAG\r\n"
LOCAL, ALLOW = OnStoreFailure.LOCAL, OnStoreFailure.ALLOW


def answers(verdicts: list[Verdict]) -> Counter[tuple[Answer, DecisionSource]]:
    return Counter((verdict.answer, verdict.decided_by) for verdict in verdicts)


async def until_open(proxy: Sidecar, key: str = "k") -> None:
    """Ask until the breaker opens."""
    async with asyncio.timeout(PATIENCE_S):
        while proxy.limiter.guard.closed:
            await proxy.ask(asking(key))
            await asyncio.sleep(0.01)


async def until_closed(proxy: Sidecar) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not proxy.limiter.guard.closed:
            await asyncio.sleep(0.005)


# -- the breaker ------------------------------------------------------------------------------------------------------


ERRORS = {
    "LOADING Redis is loading the dataset in memory": "loading",
    "READONLY You can't write against a read only replica.": "readonly",
    "OOM command not allowed when used memory > 'maxmemory'.": "oom",
    "BUSY Redis is busy running a script.": "busy",
    "NOAUTH Authentication required.": "noauth",
    "NOPERM this user has no permissions": "noperm",
    "MISCONF Errors writing to the AOF file": "misconf",
    "CLUSTERDOWN The cluster is down": "clusterdown",
    "MASTERDOWN Link with MASTER is down": "masterdown",
    "TRYAGAIN Multiple keys request during rehashing of slot": "tryagain",
    "ERR max number of clients reached": "err",
}


@pytest.mark.parametrize("error", ERRORS)
async def test_an_error_in_every_answer_opens_the_breaker_and_an_answer_closes_it(
    error: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with fake_store(f"-{error}\r\n".encode()) as fake, sidecar(fake.url) as proxy:
        await until_open(proxy)
        asked = len(fake.asked)
        verdicts = await all_of([proxy.ask(asking(f"k{number}")) for number in range(200)])
        assert {verdict.reason for verdict in verdicts} == {"breaker_open"}
        assert len(fake.asked) - asked <= 2, "probes only"
        assert proxy.limiter.guard.reason == ERRORS[error]
        fake.says = [ONE_LEFT]
        await until_closed(proxy)
        assert answers([await proxy.ask(asking("k"))]) == {(Answer.PASS, DecisionSource.STORE): 1}
        # A replica is dropped at once, in favour of the present master.
        assert (fake.connections == 1) == (ERRORS[error] != "readonly")
    events = [record.getMessage() for record in caplog.records if record.getMessage().startswith("store_breaker")]
    assert events == ["store_breaker_open", "store_breaker_closed"]


async def test_a_silent_store_opens_the_breaker_and_is_probed_one_call_at_a_time() -> None:
    async with fake_store(SILENCE) as fake, sidecar(fake.url, timeout_s=0.05) as proxy:
        await until_open(proxy)
        asked, connections = len(fake.asked), fake.connections
        begun_s = asyncio.get_running_loop().time()
        for _ in range(40):
            assert answers(await all_of([proxy.ask(asking("k")) for _ in range(20)])) == {
                (Answer.UNAVAILABLE, DecisionSource.STORE_FAILURE): 20
            }
            await asyncio.sleep(0.01)
        # 800 requests, and probes whose pauses grow from 25 ms to half a second at least.
        most = 8 + 2 * (asyncio.get_running_loop().time() - begun_s)
        assert len(fake.asked) - asked <= most
        assert fake.connections - connections <= most
        fake.says = [ONE_LEFT]
        await until_closed(proxy)


@pytest.mark.slow
async def test_a_paused_store_opens_the_breaker_and_a_resumed_one_closes_it(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url, timeout_s=0.05) as proxy:
        await proxy.ask(asking("k"))
        own_store_server.pause()
        await until_open(proxy)
        own_store_server.resume()
        await until_closed(proxy)
        verdict = await proxy.ask(asking("fresh"))
        assert (verdict.answer, verdict.decided_by) == (Answer.PASS, DecisionSource.STORE)


@pytest.mark.slow
async def test_a_full_store_keeps_the_breaker_open_although_it_answers_reads(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url) as proxy:
        await proxy.ask(asking("k"))
        own_store_server.client.config_set("maxmemory", "1")
        await until_open(proxy)
        await asyncio.sleep(0.3)  # several probes
        assert not proxy.limiter.guard.closed
        assert proxy.limiter.guard.reason == "oom"
        own_store_server.client.config_set("maxmemory", "0")
        await until_closed(proxy)


async def test_a_poisoned_key_never_opens_the_breaker(store_server: StoreServer) -> None:
    store_server.client.set("poisoned", "a string")
    async with sidecar(store_server.url) as proxy:
        for _ in range(10 * FAILURES_TO_OPEN):
            assert (await proxy.ask(asking("poisoned"))).reason == "unreadable_bucket"
            await asyncio.sleep(0.002)
        assert proxy.limiter.guard.state is BreakerState.CLOSED


async def test_one_broken_connection_does_not_open_the_breaker(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url) as proxy:
        for _ in range(FAILURES_TO_OPEN + 2):
            asked = [proxy.ask(asking(f"k{number}")) for number in range(100)]
            own_store_server.client.client_kill_filter(_type="normal", skipme=True)
            await all_of(asked)
            await proxy.until(connected=True)
            assert proxy.limiter.guard.closed
            await all_of([proxy.ask(asking("k"))])


# -- this proxy's share -----------------------------------------------------------------------------------------------


async def test_a_dead_store_leaves_each_proxy_its_share() -> None:
    async with sidecar(f"redis://127.0.0.1:{free_port()}", connected=False) as proxy:
        proxy.proxies = 3
        limit = hourly(30)
        verdicts = [await proxy.ask(asking("k", limit, on_store_failure=LOCAL)) for _ in range(15)]
        assert answers(verdicts) == {(Answer.PASS, DecisionSource.LOCAL): 10, (Answer.REFUSE, DecisionSource.LOCAL): 5}
        (entry,) = verdicts[-1].applied
        assert entry.charge is not None
        assert entry.charge.limit.burst == 10
        assert verdicts[-1].retry_us is not None
        assert verdicts[-1].retry_us > 3 * 3_590_000_000, "a third of the rate: three hours for a token"
        assert outcome_of(verdicts[-1], entry, verdicts[-1].levels[0]) is Outcome.LOCAL_REFUSED
        looked = await proxy.look(asking("k", limit, on_store_failure=LOCAL))
        assert [level and level.tokens for level in looked.levels] == [0]


@pytest.mark.slow
async def test_local_admissions_are_charged_when_the_store_is_back(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url) as proxy:
        limit = hourly(100)
        one, other = asking("one", limit, on_store_failure=LOCAL), asking("other", hourly(3), on_store_failure=LOCAL)
        await proxy.ask(one)
        own_store_server.client.config_set("maxmemory", "1")
        await until_open(proxy)
        verdicts = await all_of([proxy.ask(one) for _ in range(40)] + [proxy.ask(other) for _ in range(5)])
        assert answers(verdicts) == {(Answer.PASS, DecisionSource.LOCAL): 43, (Answer.REFUSE, DecisionSource.LOCAL): 2}
        own_store_server.client.config_set("maxmemory", "0")
        await until_closed(proxy)
        last = await proxy.ask(one)
        assert (last.decided_by, [level and level.tokens for level in last.levels]) == (
            DecisionSource.STORE,
            [100 - 42],
        )
        assert own_store_server.client.hget("other", "tokens") == b"0"
        assert not proxy.limiter.local.owes
        assert (await proxy.ask(other)).answer is Answer.REFUSE


@pytest.mark.slow
async def test_a_long_outages_debts_are_paid_in_portions(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url) as proxy:
        await proxy.ask(asking("k"))
        own_store_server.client.config_set("maxmemory", "1")
        await until_open(proxy)
        await all_of([proxy.ask(asking(f"user-{number}", on_store_failure=LOCAL)) for number in range(2000)])
        own_store_server.client.config_set("maxmemory", "0")
        await until_closed(proxy)
        async with asyncio.timeout(PATIENCE_S):
            while proxy.limiter.local.owes:
                await asyncio.sleep(0.005)
        await proxy.ask(asking("k"))
        tokens = [own_store_server.client.hget(f"user-{number}", "tokens") for number in range(2000)]
        assert set(tokens) == {b"9"}


async def test_a_debt_with_an_unknown_result_is_not_charged_again() -> None:
    async with fake_store(SILENCE) as fake, sidecar(fake.url, timeout_s=0.05) as proxy:
        limit = hourly(1000)
        verdicts = [await proxy.ask(asking("k", limit, on_store_failure=LOCAL))]
        assert answers(verdicts) == {(Answer.PASS, DecisionSource.LOCAL): 1}
        assert proxy.limiter.local.owes
        await proxy.until(connected=False)
        await proxy.until(connected=True)
        fake.says = [*fake.says * len(fake.asked), ONE_LEFT, SILENCE, ONE_LEFT]
        await proxy.ask(asking("other"))  # an answer: the debt is sent, and never heard of again
        async with asyncio.timeout(PATIENCE_S):
            while len(debits(fake)) < 1:
                await asyncio.sleep(0.005)
        await proxy.until(connected=False)
        await proxy.until(connected=True)
        await proxy.ask(asking("other"))
        await proxy.ask(asking("other"))
        assert len(debits(fake)) == 1


def debits(fake: FakeStore) -> list[list[bytes]]:
    """Script calls that charge bucket k after the event."""
    return [command for command in fake.asked if b"k" in command and command[-2].endswith(b",2]")]


async def test_a_bucket_that_cannot_be_read_is_decided_by_the_share_too(store_server: StoreServer) -> None:
    store_server.client.set("poisoned", "a string")
    async with sidecar(store_server.url) as proxy:
        verdicts = [await proxy.ask(asking("poisoned", hourly(2), on_store_failure=LOCAL)) for _ in range(3)]
        assert answers(verdicts) == {(Answer.PASS, DecisionSource.LOCAL): 2, (Answer.REFUSE, DecisionSource.LOCAL): 1}
        assert store_server.client.get("poisoned") == b"a string"


# -- how many share ---------------------------------------------------------------------------------------------------


async def announced(replicas: Replicas, now_s: float | None = None) -> object:
    reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    replicas.announce(asyncio.get_running_loop().time() if now_s is None else now_s, reply.set_result)
    async with asyncio.timeout(PATIENCE_S):
        return await reply


async def test_proxies_announce_themselves_and_count_each_other(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url) as one, sidecar(own_store_server.url) as two:
        first, second = (Replicas(proxy.store, None) for proxy in (one, two))
        assert first.count == 1
        for now_s in (100, 101):
            await announced(first, now_s)
            await announced(second, now_s)
        assert (first.count, second.count) == (2, 2)
        assert 0 < own_store_server.client.pttl("example:proxies") <= ENTRY_LIFE_S * 1000
        assert Replicas(one.store, 7).count == 7


async def test_a_lower_count_of_proxies_applies_after_some_seconds_without_a_gap(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url) as proxy:
        replicas = Replicas(proxy.store, None)
        now_ms = own_store_server.time_us() // 1000
        life_ms = int(ENTRY_LIFE_S * 1000)
        entries = {"living": now_ms - life_ms + 5000, "gone": now_ms - life_ms - 1, "of tomorrow": now_ms + 86_400_000}
        own_store_server.client.zadd("example:proxies", entries)
        for now_s in (99, 100):
            assert await announced(replicas, now_s) == 2
        own_store_server.client.zrem("example:proxies", "living")
        for now_s, count in ((101, 2), (103, 2), (105, 2), (300, 2), (302, 2), (304, 2), (306, 1)):
            await announced(replicas, now_s)
            assert replicas.count == count


async def test_a_proxy_that_leaves_is_not_counted_and_does_not_announce_itself_again(
    own_store_server: StoreServer,
) -> None:
    async with sidecar(own_store_server.url) as proxy:
        staying, leaving = (Replicas(proxy.store, None) for _ in range(2))
        await announced(leaving)
        assert await announced(staying) == 2
        await answer_of(leaving.leave)
        await announced(leaving)
        assert await announced(staying) == 1


async def test_the_workers_and_what_a_sibling_has_counted_are_the_least_count(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url) as proxy:
        assert Replicas(proxy.store, None, floor=4).count == 4
        assert Replicas(proxy.store, None, floor=4, known=12).count == 12


async def test_a_store_that_lost_its_data_does_not_enlarge_shares_at_once(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url) as proxy:
        one, two, three = (Replicas(proxy.store, None) for _ in range(3))
        for now_s in (100, 101):
            for each in (one, two, three):
                await announced(each, now_s)
        own_store_server.client.flushall()
        for now_s in (102, 103):
            for each in (one, two, three):
                await announced(each, now_s)
                assert each.count == 3


@pytest.mark.parametrize("number", [1, 2, 3, 10])
async def test_proxies_that_start_just_before_an_outage_share_at_most_one_limit(
    number: int, own_store_server: StoreServer
) -> None:
    async with sidecar(own_store_server.url) as proxy:
        proxies = [Replicas(proxy.store, None) for _ in range(number)]
        for each in proxies:
            await announced(each, 100)
        assert sum(Fraction(1, each.count) for each in proxies) < 1
        for now_s in (100.9, 101.9):
            for each in proxies:
                await announced(each, now_s)
        assert [each.count for each in proxies] == [number] * number


# -- a store that is not fit for its work -----------------------------------------------------------------------------


async def test_a_store_that_evicts_and_one_with_very_many_keys_are_warned_of_once(
    start_store: StartStore, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_store("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    for number in range(20):
        server.client.set(f"key-{number}", "")
    async with sidecar(server.url) as proxy:
        replicas = Replicas(proxy.store, None)
        watch = Housekeeping(proxy.store, replicas, 15)
        task = asyncio.get_running_loop().create_task(watch.run())
        async with asyncio.timeout(PATIENCE_S):
            for looks in (1, 2, 3):
                calls = server.calls("info")
                watch.connected()
                while server.calls("info") <= calls + 1 or not caplog.records:  # calls() asks for INFO itself
                    await asyncio.sleep(0.01)
                assert looks
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert watch.keys == 21
    warned = [record.getMessage() for record in caplog.records]
    assert sorted(warned) == ["store_evicts", "store_many_buckets"]


async def test_a_store_that_denies_info_causes_no_warning(own_store_server: StoreServer) -> None:
    own_store_server.client.acl_setuser(
        "limited", enabled=True, nopass=True, keys=["*"], commands=["+ping", "+eval", "+evalsha", "+client"]
    )
    async with sidecar(own_store_server.url, username="limited", password="any") as proxy:
        watch = Housekeeping(proxy.store, Replicas(proxy.store, 3), 1)
        task = asyncio.get_running_loop().create_task(watch.run())
        await asyncio.sleep(0.05)
        assert not task.done()
        assert watch.keys == 0
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert proxy.failures == [None]
