"""Decisions through a real store, in all of its faults."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable

import pytest
from sidegate.decision.bucket import Level, Limit, Rate
from sidegate.decision.policy import OnStoreFailure
from sidegate.decision.verdict import UNLIMITED, Answer, DecisionSource, Verdict
from sidegate.store.limiter import MOST_UNDECIDED
from sidegate.store.redis import call_queue
from sidegate.store.redis.batch import LARGEST_BATCH

from tests.conftest import StartStore
from tests.servers import StoreServer, free_port
from tests.store.fake_store import HANG_UP, SILENCE, fake_store
from tests.store.sidecar import PATIENCE_S, Sidecar, all_of, asking, hourly, sidecar

ONE_LEFT = b"*3\r\n:1\r\n:0\r\n:TAG\r\n"
ALLOW, DENY = OnStoreFailure.ALLOW, OnStoreFailure.DENY


def answers(verdicts: list[Verdict]) -> Counter[tuple[Answer, DecisionSource]]:
    return Counter((verdict.answer, verdict.decided_by) for verdict in verdicts)


def reasons(verdicts: list[Verdict]) -> set[str]:
    return {verdict.reason for verdict in verdicts}


def tokens(verdict: Verdict) -> list[int | None]:
    """What its buckets hold; None where that is not known."""
    return [None if level is None else level.tokens for level in verdict.levels]


PASSED = (Answer.PASS, DecisionSource.STORE)
REFUSED = (Answer.REFUSE, DecisionSource.STORE)
REMEMBERED = (Answer.REFUSE, DecisionSource.DENY_CACHE)
FAILED = (Answer.UNAVAILABLE, DecisionSource.STORE_FAILURE)


# -- one call for all requests of a turn ------------------------------------------------------------------------------


async def test_requests_of_one_turn_are_one_script_call(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        await proxy.ask(asking("warm"))
        before = store_server.calls("evalsha")
        verdicts = await all_of([proxy.ask(asking(f"k{number % 7}")) for number in range(60)])
        assert answers(verdicts) == {PASSED: 60}
        assert store_server.calls("evalsha") == before + 1


async def test_a_turns_requests_beyond_the_largest_batch_are_sent_as_several(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        await proxy.ask(asking("warm"))
        before = store_server.calls("evalsha")
        count = 2 * LARGEST_BATCH + 88
        verdicts = await all_of([proxy.ask(asking("k", hourly(count - 10))) for _ in range(count)])
        assert answers(verdicts) == {PASSED: count - 10, REFUSED: 10}
        assert store_server.calls("evalsha") == before + 3


async def test_a_call_holds_no_more_charges_than_the_largest_batch(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        await proxy.ask(asking("warm"))
        before = store_server.calls("evalsha")
        users = [[asking(f"{user}.{policy}") for policy in range(32)] for user in range(24)]
        verdicts = await all_of([proxy.ask(*policies) for policies in users])
        assert answers(verdicts) == {PASSED: 24}
        assert store_server.calls("evalsha") == before + 24 * 32 // LARGEST_BATCH
        (verdict,) = await all_of([proxy.ask(*(asking(f"k{number}") for number in range(LARGEST_BATCH + 50)))])
        assert verdict.answer is Answer.PASS  # one request is never divided


@pytest.mark.slow
async def test_a_burst_that_takes_the_store_longer_than_the_timeout_is_decided_by_it(
    store_server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_queue, "LONGEST_WAIT_S", PATIENCE_S)
    requests = [[asking(f"{user}.{policy}") for policy in range(32)] for user in range(1000)]
    async with sidecar(store_server.url) as proxy:
        begun_s = time.monotonic()
        await all_of([proxy.ask(*policies) for policies in requests])
        all_took_s = time.monotonic() - begun_s
    # All of it takes the store longer than that, and what is under way at once a fifteenth.
    async with sidecar(store_server.url, timeout_s=all_took_s / 2) as proxy:
        verdicts = await all_of([proxy.ask(*policies) for policies in requests])
        assert answers(verdicts) == {PASSED: 1000}
        assert reasons(verdicts) == {""}


async def test_each_request_receives_the_levels_of_its_own_buckets(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        asked = [
            proxy.ask(*(asking(f"{number}.{part}", hourly(100 * part + number)) for part in range(1, 1 + number % 3)))
            for number in range(1, 50)
        ]
        for number, verdict in enumerate(await all_of(asked), start=1):
            assert tokens(verdict) == [100 * part + number - 1 for part in range(1, 1 + number % 3)]


async def test_requests_of_several_turns_are_answered_in_order(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        await proxy.ask(asking("warm"))  # a script that must be sent again is sent behind what is under way
        asked = []
        for turn in range(20):
            asked.append(proxy.ask(asking("k", hourly(100))))
            asked.append(proxy.ask(asking(f"own-{turn}", hourly(turn + 1))))
            await asyncio.sleep(0)
        verdicts = await all_of(asked)
        assert [tokens(verdict) for verdict in verdicts[::2]] == [[left] for left in range(99, 79, -1)]
        assert [tokens(verdict) for verdict in verdicts[1::2]] == [[left] for left in range(20)]


async def test_a_request_without_policies_makes_no_call(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        assert await proxy.ask() is UNLIMITED
        assert store_server.calls("evalsha") == 0


async def test_a_callback_that_raises_does_not_affect_others(
    store_server: StoreServer, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(verdict: Verdict) -> None:
        raise ZeroDivisionError

    async with sidecar(store_server.url) as proxy:
        first = proxy.ask(asking("k"))
        proxy.limiter.decide([asking("k")], fail)
        last = proxy.ask(asking("k"))
        assert [tokens(verdict) for verdict in await all_of([first, last])] == [[9], [7]]
        assert proxy.failures == [None]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_client_that_left_does_not_affect_others(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        gone: list[Verdict] = []
        proxy.limiter.decide([asking("k")], gone.append)
        stays = proxy.ask(asking("k"))
        assert tokens(await stays) == [8]
        assert len(gone) == 1


async def test_a_callback_may_start_another_decision(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        done = asyncio.get_running_loop().create_future()

        def again(left: int) -> Callable[[Verdict], None]:
            def then(verdict: Verdict) -> None:
                if left:
                    proxy.limiter.decide([asking("k")], again(left - 1))
                else:
                    done.set_result(verdict)

            return then

        proxy.limiter.decide([asking("k")], again(5))
        async with asyncio.timeout(PATIENCE_S):
            assert tokens(await done) == [4]


# -- several policies -------------------------------------------------------------------------------------------------


async def test_a_request_that_one_bucket_refuses_is_charged_on_none(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        wide, narrow = asking("wide", hourly(100)), asking("narrow", hourly(3))
        verdicts = await all_of([proxy.ask(wide, narrow) for _ in range(5)])
        assert answers(verdicts) == {PASSED: 3, REFUSED: 2}
        assert store_server.client.hget("wide", "tokens") == b"97"
        assert tokens(verdicts[-1]) == [97, 0]


async def test_a_shadow_policy_never_refuses_and_is_reported(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        verdicts = await all_of(
            [proxy.ask(asking("trial", hourly(1), shadow=True), asking("live", hourly(9))) for _ in range(3)]
        )
        assert answers(verdicts) == {PASSED: 3}
        assert tokens(verdicts[-1]) == [0, 6]
        assert [level and level.enough for level in verdicts[-1].levels] == [False, True]
        again = await proxy.ask(asking("trial", hourly(1), shadow=True))
        assert again.answer is Answer.PASS


async def test_a_blocked_key_is_refused_without_a_call(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        verdict = await proxy.ask(asking("free"), asking("blocked", None))
        assert (verdict.answer, verdict.decided_by) == (Answer.REFUSE, DecisionSource.OVERRIDE)
        assert list(verdict.levels) == [None, None]
        assert store_server.calls("evalsha") == 0
        assert store_server.client.dbsize() == 0


async def test_a_blocked_key_of_a_shadow_policy_passes(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        alone = await proxy.ask(asking("blocked", None, shadow=True))
        beside = await proxy.ask(asking("blocked", None, shadow=True), asking("k"))
        assert alone.answer is beside.answer is Answer.PASS
        assert tokens(beside) == [None, 9]


async def test_a_look_returns_the_level_and_charges_nothing(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        await proxy.ask(asking("k", cost=4))
        for _ in range(3):
            assert tokens(await proxy.look(asking("k"))) == [6]
        assert (await proxy.look(asking("blocked", None))).decided_by is DecisionSource.OVERRIDE
        assert store_server.client.keys() == [b"k"]


# -- the deny cache before the store ----------------------------------------------------------------------------------


async def test_a_bucket_known_to_be_empty_is_refused_without_a_call(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        limit = hourly(2)
        first = await all_of([proxy.ask(asking("k", limit)) for _ in range(3)])
        asked = store_server.calls("evalsha") + store_server.calls("eval")
        then = await all_of([proxy.ask(asking("k", limit)) for _ in range(50)])
        assert answers(first) == {PASSED: 2, REFUSED: 1}
        assert answers(then) == {REMEMBERED: 50}
        assert store_server.calls("evalsha") + store_server.calls("eval") == asked
        assert all(verdict.retry_us for verdict in then)


async def test_spending_the_last_token_fills_the_deny_cache(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        limit = hourly(1)
        assert answers([await proxy.ask(asking("k", limit)), await proxy.ask(asking("k", limit))]) == {
            PASSED: 1,
            REMEMBERED: 1,
        }


async def test_one_empty_bucket_refuses_for_all_and_charges_none(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        limit, wide = hourly(1), hourly(10)
        await proxy.ask(asking("narrow", limit))
        verdict = await proxy.ask(asking("wide", wide), asking("narrow", limit))
        assert (verdict.answer, verdict.decided_by) == REMEMBERED
        assert verdict.levels[0] is None
        assert store_server.client.exists("wide") == 0


async def test_an_empty_shadow_bucket_is_read_each_time(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        limit = hourly(1)
        verdicts = [await proxy.ask(asking("trial", limit, shadow=True)) for _ in range(3)]
        assert answers(verdicts) == {PASSED: 3}


# -- state that is lost -----------------------------------------------------------------------------------------------


async def test_a_store_that_lost_the_script_receives_it_again(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url) as proxy:
        for left in (9, 8, 7):
            own_store_server.client.script_flush()
            assert tokens(await proxy.ask(asking("k"))) == [left]
        assert own_store_server.calls("eval") == 3
        await proxy.ask(asking("k"))
        assert own_store_server.calls("eval") == 3


async def test_scripts_flushed_under_load_cost_no_error_and_no_token(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        bucket = asking("k", hourly(100_000))
        verdicts = []
        for _ in range(30):
            asked = []
            for _ in range(4):
                asked += [proxy.ask(bucket) for _ in range(5)]
                await asyncio.sleep(0)
            store_server.client.script_flush()
            verdicts += await all_of(asked)
        assert answers(verdicts) == {PASSED: 600}
        assert store_server.client.hget("k", "tokens") == b"%d" % (100_000 - 600)


async def test_a_store_that_lost_its_buckets_starts_new_ones(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        limit = hourly(3)
        verdicts = []
        for _ in range(3):
            verdicts += await all_of([proxy.ask(asking("k", limit)) for _ in range(5)])
            store_server.client.flushall()
            proxy.deny_cache.clear()
        assert answers(verdicts) == {PASSED: 9, REFUSED: 6}


async def test_an_unreadable_bucket_fails_only_its_own_request(store_server: StoreServer) -> None:
    store_server.client.set("poisoned", "a string")
    async with sidecar(store_server.url) as proxy:
        before, poisoned, after = await all_of([proxy.ask(asking(key)) for key in ("k", "poisoned", "k")])
        shadowed = await proxy.ask(asking("poisoned", shadow=True), asking("k"))
        assert answers([before, after, shadowed]) == {PASSED: 3}
        assert tokens(shadowed) == [None, 7]
        assert (poisoned.answer, poisoned.reason) == (Answer.UNAVAILABLE, "unreadable_bucket")
        assert proxy.store.failure is None


async def test_a_refusal_stands_beside_an_unreadable_bucket(store_server: StoreServer) -> None:
    store_server.client.set("poisoned", "a string")
    async with sidecar(store_server.url) as proxy:
        verdict = await proxy.ask(asking("poisoned"), asking("k", hourly(3), cost=4))
        assert (verdict.answer, verdict.decided_by) == REFUSED
        assert tokens(verdict) == [None, 3]


# -- a store that does not answer -------------------------------------------------------------------------------------


async def test_no_request_waits_longer_than_the_timeout_for_a_paused_store(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url, timeout_s=0.05) as proxy:
        own_store_server.pause()
        asked = []
        for _ in range(5):
            asked += [proxy.ask(asking(f"k{number}")) for number in range(10)]
            await asyncio.sleep(0.001)
        verdicts = await all_of(asked)
        assert answers(verdicts) == {FAILED: 50}
        assert "timeout" in reasons(verdicts) <= {"timeout", "connect"}
        assert answers([await proxy.ask(asking("k"))]) == {FAILED: 1}
        own_store_server.resume()
        await proxy.until(connected=True)
        await proxy.ask(asking("k"))


@pytest.mark.slow
async def test_a_late_reply_reaches_no_other_request(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url, timeout_s=0.05) as proxy:
        own_store_server.pause()
        lost = await all_of([proxy.ask(asking(f"lost-{number}", hourly(1000))) for number in range(20)])
        assert answers(lost) == {FAILED: 20}
        own_store_server.resume()
        for _ in range(20):
            await proxy.until(connected=True)
            asked = [(number, proxy.ask(asking(f"k-{number}", hourly(number)))) for number in range(1, 30)]
            for number, verdict in zip(
                [number for number, _ in asked], await all_of([future for _, future in asked]), strict=True
            ):
                (level,) = verdict.levels
                if level is not None:  # this machine may be slow: an outage is not what is tested here
                    assert level.tokens <= number - 1
                    assert level.enough or level.tokens == 0
    spent = {1000 - int(own_store_server.client.hget(f"lost-{number}", "tokens") or 1000) for number in range(20)}
    assert spent <= {0, 1}


@pytest.mark.slow
async def test_a_store_that_crashed_and_came_back_decides_again(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url) as proxy:
        assert answers([await proxy.ask(asking("k"))]) == {PASSED: 1}
        own_store_server.kill()
        await proxy.until(connected=False)
        down = await all_of([proxy.ask(asking("k")) for _ in range(20)])
        assert answers(down) == {FAILED: 20}
        assert reasons(down) <= {"connection_lost", "connect"}
        own_store_server.start()
        await proxy.until(connected=True)
        assert answers([await proxy.ask(asking("k"))]) == {PASSED: 1}
        assert proxy.failures[0] is None
        assert proxy.failures[-1] is None


async def test_calls_in_flight_when_the_store_crashes_fail_at_once(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url) as proxy:
        own_store_server.pause()
        asked = [proxy.ask(asking("k")) for _ in range(20)]
        await asyncio.sleep(0.01)
        own_store_server.kill()
        verdicts = await all_of(asked)
        assert answers(verdicts) == {FAILED: 20}
        assert reasons(verdicts) == {"connection_lost"}


async def test_a_store_that_was_never_there_fails_at_once() -> None:
    async with sidecar(f"redis://127.0.0.1:{free_port()}", connected=False) as proxy:
        verdicts = await all_of([proxy.ask(asking("k")) for _ in range(3)])
        assert answers(verdicts) == {FAILED: 3}
        assert reasons(verdicts) == {"connect"}


async def test_a_store_that_comes_later_is_found() -> None:
    port = free_port()
    async with sidecar(f"redis://127.0.0.1:{port}", connected=False) as proxy:
        server = StoreServer("--port", str(port))
        try:
            await proxy.until(connected=True)
            assert answers([await proxy.ask(asking("k"))]) == {PASSED: 1}
        finally:
            server.stop()


@pytest.mark.slow
async def test_the_number_of_waiting_requests_is_bounded(
    own_store_server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_queue, "LONGEST_WAIT_S", PATIENCE_S)
    async with sidecar(own_store_server.url, timeout_s=PATIENCE_S) as proxy:
        own_store_server.pause()
        bucket = asking("k", hourly(1_000_000))
        verdicts: list[Verdict] = []
        for _ in range(MOST_UNDECIDED + 100):
            proxy.limiter.decide([bucket], verdicts.append)
        assert len(verdicts) == 100
        assert reasons(verdicts) == {"overloaded"}
        own_store_server.resume()
        async with asyncio.timeout(PATIENCE_S):
            while len(verdicts) < MOST_UNDECIDED + 100:
                await asyncio.sleep(0.005)
        assert answers(verdicts[100:]) == {PASSED: MOST_UNDECIDED}
        assert answers([await proxy.ask(bucket)]) == {PASSED: 1}


# -- a store that answers with an error -------------------------------------------------------------------------------


async def test_a_store_out_of_memory_charges_nothing_and_recovers(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url) as proxy:
        await proxy.ask(asking("k"))
        own_store_server.client.config_set("maxmemory", "1")
        verdicts = await all_of([proxy.ask(asking("k"), asking(f"other-{number}")) for number in range(5)])
        assert answers(verdicts) == {FAILED: 5}
        assert reasons(verdicts) == {"oom"}
        own_store_server.client.config_set("maxmemory", "0")
        assert own_store_server.client.dbsize() == 1
        assert tokens(await proxy.ask(asking("k"))) == [8]


async def test_a_replica_charges_nothing(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url) as proxy:
        await proxy.ask(asking("k"))
        own_store_server.client.replicaof("127.0.0.1", str(free_port()))
        verdict = await proxy.ask(asking("k"))
        assert (verdict.answer, verdict.reason) == (Answer.UNAVAILABLE, "readonly")
        own_store_server.client.replicaof("NO", "ONE")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("LOADING the dataset is in memory only in part", "loading"),
        ("BUSY a script is running", "busy"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "oom"),
        ("NOAUTH Authentication required.", "noauth"),
        ("MISCONF errors writing to disk", "misconf"),
        ("ERR something", "err"),
    ],
)
async def test_an_error_fails_its_batch_and_keeps_the_connection(error: str, reason: str) -> None:
    async with fake_store(f"-{error}\r\n".encode(), ONE_LEFT) as fake, sidecar(fake.url) as proxy:
        failed = await all_of([proxy.ask(asking("k"))])
        assert (answers(failed), reasons(failed)) == ({FAILED: 1}, {reason})
        assert answers([await proxy.ask(asking("k"))]) == {PASSED: 1}
        assert fake.connections == 1
        assert proxy.failures == [None]


async def test_a_server_that_became_a_replica_is_left_at_once() -> None:
    readonly = b"-READONLY You can't write against a read only replica.\r\n"
    async with fake_store(readonly, ONE_LEFT) as fake, sidecar(fake.url) as proxy:
        failed = await all_of([proxy.ask(asking("k"))])
        assert (answers(failed), reasons(failed)) == ({FAILED: 1}, {"readonly"})
        await proxy.until(connected=False)
        await proxy.until(connected=True)
        assert answers([await proxy.ask(asking("k"))]) == {PASSED: 1}
        assert fake.connections == 2


async def test_a_store_that_refuses_the_script_after_eval_is_called_only_twice() -> None:
    async with fake_store(b"-NOSCRIPT No matching script.\r\n") as fake, sidecar(fake.url) as proxy:
        failed = await all_of([proxy.ask(asking("k"))])
        assert (answers(failed), reasons(failed)) == ({FAILED: 1}, {"noscript"})
        assert [command[0] for command in fake.asked] == [b"EVALSHA", b"EVAL"]


# -- a store that speaks nonsense -------------------------------------------------------------------------------------

NONSENSE = {
    "too few numbers": b"*1\r\n:1\r\n",
    "too many numbers": b"*3\r\n:1\r\n:0\r\n:0\r\n",
    "strings": b"*2\r\n$1\r\n1\r\n$1\r\n0\r\n",
    "nothing": b"$-1\r\n",
    "an empty list": b"*0\r\n",
    "no list": b"*-1\r\n",
    "a status": b"+OK\r\n",
    "a number": b":1\r\n",
    "a list of lists": b"*2\r\n*1\r\n:1\r\n*1\r\n:0\r\n",
    "an error inside": b"*3\r\n:1\r\n-ERR no\r\n:TAG\r\n",
    "another call's reply": b"*3\r\n:1\r\n:0\r\n:7777777\r\n",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "RESP3 true": b"#t\r\n",
    "RESP3 false": b"#f\r\n",
    "RESP3 null": b"_\r\n",
    "RESP3 map": b"%1\r\n:1\r\n:0\r\n",
    "RESP3 push": b">2\r\n+invalidate\r\n*1\r\n+k\r\n",
    "RESP3 double": b"*2\r\n,1.5\r\n,0\r\n",
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
async def test_an_invalid_reply_closes_the_connection(nonsense: bytes) -> None:
    async with fake_store(nonsense, ONE_LEFT) as fake, sidecar(fake.url, timeout_s=1.0) as proxy:
        asked = [proxy.ask(asking("a"))]
        await asyncio.sleep(0)  # a turn of its own: two questions are under way, and the second gets no answer either
        asked.append(proxy.ask(asking("b")))
        failed = await all_of(asked)
        assert answers(failed) == {FAILED: 2}
        assert reasons(failed) == {"protocol"}
        await proxy.until(connected=True)
        assert fake.connections == 2
        assert answers([await proxy.ask(asking("k"))]) == {PASSED: 1}


async def test_half_a_reply_fails_at_the_timeout_and_its_connection_is_replaced() -> None:
    async with fake_store(b"*3\r\n:1\r\n", ONE_LEFT) as fake, sidecar(fake.url, timeout_s=0.05) as proxy:
        failed = await all_of([proxy.ask(asking("k"))])
        assert (answers(failed), reasons(failed)) == ({FAILED: 1}, {"timeout"})
        async with asyncio.timeout(PATIENCE_S):
            while fake.connections < 2:
                await asyncio.sleep(0.01)


async def test_a_silent_store_fails_at_the_timeout() -> None:
    async with fake_store(SILENCE) as fake, sidecar(fake.url, timeout_s=0.05) as proxy:
        failed = await all_of([proxy.ask(asking("k"))])
        assert (answers(failed), reasons(failed)) == ({FAILED: 1}, {"timeout"})


async def test_a_closed_connection_is_detected() -> None:
    async with fake_store(HANG_UP, ONE_LEFT) as fake, sidecar(fake.url) as proxy:
        failed = await all_of([proxy.ask(asking("k"))])
        assert (answers(failed), reasons(failed)) == ({FAILED: 1}, {"connection_lost"})
        await proxy.until(connected=True)
        assert answers([await proxy.ask(asking("k"))]) == {PASSED: 1}


async def test_an_unexpected_reply_closes_the_connection_before_any_callback() -> None:
    async with fake_store(ONE_LEFT + ONE_LEFT, b"*3\r\n:7\r\n:0\r\n:TAG\r\n") as fake, sidecar(fake.url) as proxy:
        assert answers([await proxy.ask(asking("k"))]) == {PASSED: 1}
        await proxy.until(connected=False)
        await proxy.until(connected=True)
        assert tuple((await proxy.ask(asking("k"))).levels) == (Level(7, 0, True),)
        assert [failure and failure.reason for failure in proxy.failures] == [None, "protocol", None]


# -- what policies want when the store fails --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policies", "answer"),
    [
        ([(DENY, False)], Answer.UNAVAILABLE),
        ([(ALLOW, False)], Answer.PASS),
        ([(ALLOW, False), (DENY, False)], Answer.UNAVAILABLE),
        ([(DENY, False), (ALLOW, False)], Answer.UNAVAILABLE),
        ([(DENY, True)], Answer.PASS),
        ([(DENY, True), (ALLOW, False)], Answer.PASS),
    ],
)
async def test_the_strictest_policy_determines_the_failure_mode(
    policies: list[tuple[OnStoreFailure, bool]], answer: Answer
) -> None:
    async with sidecar(f"redis://127.0.0.1:{free_port()}", connected=False) as proxy:
        applied = [asking("k", shadow=shadow, on_store_failure=failure) for failure, shadow in policies]
        verdict = await proxy.ask(*applied)
        assert (verdict.answer, verdict.decided_by) == (answer, DecisionSource.STORE_FAILURE)
        assert list(verdict.levels) == [None] * len(policies)


# -- ways to reach a store --------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_password_opens_a_store(start_store: StartStore) -> None:
    server = start_store(password="open,sesame:1")
    async with sidecar(server.url, password="open,sesame:1") as proxy:
        assert answers([await proxy.ask(asking("k"))]) == {PASSED: 1}
    for wrong, reason in (("open", "wrongpass"), (None, "noauth")):
        async with sidecar(server.url, connected=False, password=wrong) as proxy:
            verdict = await proxy.ask(asking("k"))
            assert (verdict.answer, verdict.reason) == (Answer.UNAVAILABLE, reason)


async def test_a_user_of_the_store_has_a_name_and_a_password(own_store_server: StoreServer) -> None:
    own_store_server.client.acl_setuser(
        "sidegate", enabled=True, passwords=["+secret"], keys=["*"], categories=["+@all"]
    )
    async with sidecar(own_store_server.url, username="sidegate", password="secret") as proxy:
        assert answers([await proxy.ask(asking("k"))]) == {PASSED: 1}
        who = [client["user"] for client in own_store_server.client.client_list()]
        assert "sidegate" in who


async def test_a_user_that_may_not_run_scripts_is_an_outage(own_store_server: StoreServer) -> None:
    own_store_server.client.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], commands=["+ping", "+client"])
    async with sidecar(own_store_server.url, username="limited", password="any") as proxy:
        verdict = await proxy.ask(asking("k"))
        assert (verdict.answer, verdict.reason) == (Answer.UNAVAILABLE, "noperm")


async def test_a_unix_socket_and_a_database_number_are_understood(store_server: StoreServer) -> None:
    async with sidecar(f"unix://{store_server.socket_path}?db=2") as proxy:
        assert answers([await proxy.ask(asking("k"))]) == {PASSED: 1}
    async with sidecar(f"{store_server.url}/3") as proxy:
        assert answers([await proxy.ask(asking("k"))]) == {PASSED: 1}
    assert store_server.client.exists("k") == 0
    assert {"db2", "db3"} <= set(store_server.client.info("keyspace"))


async def test_one_sidecar_is_one_connection(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url) as proxy:
        await all_of([proxy.ask(asking(f"k{number}")) for number in range(100)])
        assert len(own_store_server.client.client_list()) == 2  # this test's own is the other


async def test_ping_reports_an_answer_and_a_missing_one(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url, timeout_s=0.05) as proxy:

        async def sign() -> object:
            replied: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            proxy.store.ping(replied.set_result)
            return await replied

        async with asyncio.timeout(PATIENCE_S):
            assert await sign() == b"PONG"
            own_store_server.pause()
            assert "timeout" in {getattr(await sign(), "reason", "") for _ in range(2)}


# -- exactness --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "limit"),
    # Bursts that no bucket grows to, however seldom a busy machine asks for it.
    [(1, Limit(Rate(300, 1_000_000), 100_000, 1000, 1)), (1000, Limit(Rate(2, 1_000_000), 1000, 10, 1))],
    ids=["one key", "1000 keys"],
)
async def test_three_sidecars_admit_what_the_bucket_holds_and_no_more(
    store_server: StoreServer, keys: int, limit: Limit
) -> None:
    admitted: Counter[int] = Counter()
    first_seen_s: dict[int, float] = {}
    stopping = False
    buckets = [asking(f"key-{number}", limit) for number in range(keys)]
    loop = asyncio.get_running_loop()

    async def demand(proxy: Sidecar, first: int) -> None:
        """Ask for every 64th key in turn (or the only one), for ever; in the end once more until each refuses."""
        mine = range(first, keys, 64) or range(keys)
        while not stopping:
            for number in mine:
                await ask(proxy, number)
        for number in mine:
            while await ask(proxy, number):
                pass

    async def ask(proxy: Sidecar, number: int) -> bool:
        verdict = await proxy.ask(buckets[number])
        assert verdict.decided_by in (DecisionSource.STORE, DecisionSource.DENY_CACHE), verdict.reason
        first_seen_s.setdefault(number, loop.time())
        if verdict.decided_by is DecisionSource.DENY_CACHE:
            await asyncio.sleep(0)
        admitted[number] += verdict.answer is Answer.PASS
        return verdict.answer is Answer.PASS

    async with (
        sidecar(store_server.url) as one,
        sidecar(store_server.url) as two,
        sidecar(store_server.url) as three,
    ):
        begun_us = store_server.time_us()
        tasks = [loop.create_task(demand((one, two, three)[number % 3], number)) for number in range(64)]
        await asyncio.sleep(3)
        stopped_s = loop.time()
        stopping = True
        await asyncio.gather(*tasks)
        ended_us = store_server.time_us()

    def grown(elapsed_us: float) -> int:
        return int(elapsed_us * limit.rate.tokens / limit.rate.period_us)

    assert len(admitted) == keys
    assert max(admitted.values()) <= limit.initial + grown(ended_us - begun_us)
    for number in range(keys):
        # The clients take every token in the end; only rounding loses some, less than a microsecond for each charge.
        rounding_us = admitted[number]
        demanded_us = (stopped_s - first_seen_s[number]) * 1e6
        assert admitted[number] >= limit.initial + grown(demanded_us - rounding_us)
