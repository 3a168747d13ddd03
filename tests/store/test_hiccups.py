"""Short faults of the store cost the calls that they hit, and not the calls after them."""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest
from sidegate.decision.verdict import Answer

from tests.chaos.fault_proxy import Delay, FaultProxy
from tests.conftest import StartStore
from tests.servers import StoreServer
from tests.store.fake_store import fake_store
from tests.store.sidecar import PATIENCE_S, Sidecar, all_of, asking, hourly, sidecar

ROOMY = hourly(1_000_000)
ONE_LEFT = b"*3\r\n:1\r\n:0\r\n:TAG\r\n"


@pytest.fixture
def relay(own_store_server: StoreServer) -> Iterator[FaultProxy]:
    proxy = FaultProxy(own_store_server.port)
    yield proxy
    proxy.stop()


async def failed_share(proxy: Sidecar, lasting_s: float) -> float:
    """The share of requests that the store did not decide, with one request each 2 ms."""
    verdicts = []
    until_s = time.monotonic() + lasting_s
    while time.monotonic() < until_s:
        verdicts.append(proxy.ask(asking("k", ROOMY)))
        await asyncio.sleep(0.002)
    answers = [verdict.answer for verdict in await all_of(verdicts)]
    return answers.count(Answer.UNAVAILABLE) / len(answers)


async def each(every_s: float, action: Callable[[], None], ending: Callable[[], None], lasting_s: float) -> None:
    """Run `action`, and `ending` so much later, again and again."""
    while True:
        await asyncio.sleep(every_s - lasting_s)
        action()
        try:
            await asyncio.sleep(lasting_s)
        finally:
            ending()


Hiccups = Callable[[], Coroutine[Any, Any, None]]


async def share_under(proxy: Sidecar, hiccups: Hiccups, most: float, *, keeps_connection: bool = False) -> float:
    """The share of failed requests; the least of up to three times, since a busy machine adds its own hiccups.

    `keeps_connection`: a time in which the connection was replaced counts as a share of 1.
    """
    shares: list[float] = []
    while len(shares) < 3 and not (shares and shares[-1] <= most):
        connections = len(proxy.failures)
        task = asyncio.get_running_loop().create_task(hiccups())
        try:
            share = await failed_share(proxy, 4.0)
            shares.append(1.0 if keeps_connection and len(proxy.failures) > connections else share)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    return min(shares)


# -- pauses -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_store_that_pauses_nine_percent_of_the_time_fails_no_more_than_twice_that_share(
    own_store_server: StoreServer,
) -> None:
    async with sidecar(own_store_server.url, timeout_s=0.05) as proxy:
        pauses = partial(each, 0.9, own_store_server.pause, own_store_server.resume, 0.08)
        assert await share_under(proxy, pauses, 0.18, keeps_connection=True) <= 0.18


@pytest.mark.slow
async def test_a_connection_that_is_cut_each_700_ms_is_replaced_at_once(relay: FaultProxy) -> None:
    async with sidecar(relay.url, timeout_s=0.05) as proxy:
        cuts = partial(each, 0.7, relay.reset_all, lambda: None, 0.001)
        # Pauses that grew up to a second made it 0.6.
        assert await share_under(proxy, cuts, 0.3) <= 0.3
        assert relay.accepted >= 4


@pytest.mark.slow
async def test_late_replies_fail_their_own_calls_and_leave_the_connection(relay: FaultProxy) -> None:
    async with sidecar(relay.url, timeout_s=0.05) as proxy:

        def delay() -> None:
            relay.delay = Delay(0.08)

        late = partial(each, 0.4, delay, relay.heal, 0.008)
        assert await share_under(proxy, late, 0.3, keeps_connection=True) <= 0.3


async def test_a_call_beside_a_late_reply_has_its_own_deadline(
    own_store_server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection's timer then watches the silence; a probe's late reply closed the breaker in an outage."""
    monkeypatch.setattr("sidegate.store.redis.connection.SHORTEST_SILENCE_S", 600.0)
    async with sidecar(own_store_server.url, timeout_s=0.05) as proxy:
        own_store_server.pause()
        try:
            for _ in range(2):
                (verdict,) = await all_of([proxy.ask(asking("k", ROOMY))])
                assert verdict.reason == "timeout"
        finally:
            own_store_server.resume()


async def test_a_reply_in_the_kernel_counts_though_the_loop_is_late(own_store_server: StoreServer) -> None:
    async with sidecar(own_store_server.url, timeout_s=0.05) as proxy:
        await proxy.ask(asking("k", ROOMY))
        for _ in range(3):
            asked = proxy.ask(asking("k", ROOMY))
            await asyncio.sleep(0)  # the call leaves at the end of this turn
            time.sleep(0.12)  # noqa: ASYNC251  (the loop is late on purpose)
            assert (await asked).answer is Answer.PASS


@pytest.mark.slow
async def test_a_reply_that_arrives_in_time_during_a_long_callback_counts(relay: FaultProxy) -> None:
    """uvloop runs the timers that are due before it looks at its sockets again."""
    loop = asyncio.get_running_loop()
    waiting, waking = socket.socketpair()
    async with sidecar(relay.url, timeout_s=0.25) as proxy:
        await proxy.ask(asking("k", ROOMY))
        relay.delay = Delay(0.03)
        loop.add_reader(waiting, lambda: time.sleep(1.5 * len(waiting.recv(1))))
        try:
            asked = proxy.ask(asking("k", ROOMY))
            await asyncio.sleep(0)  # the call leaves
            waking.send(b"x")
            assert (await asked).answer is Answer.PASS
        finally:
            loop.remove_reader(waiting)
            waiting.close()
            waking.close()


async def test_a_call_sent_late_in_a_long_turn_has_its_whole_timeout(relay: FaultProxy) -> None:
    async with sidecar(relay.url, timeout_s=0.4) as proxy:
        await proxy.ask(asking("k", ROOMY))
        relay.delay = Delay(0.03)
        asyncio.get_running_loop().call_soon(time.sleep, 0.5)  # in the turn that then sends the call
        assert (await proxy.ask(asking("k", ROOMY))).answer is Answer.PASS


# -- order and liveness -----------------------------------------------------------------------------------------------


async def test_a_lost_reply_does_not_shift_the_replies_after_it(relay: FaultProxy) -> None:
    async with sidecar(relay.url, timeout_s=0.05) as proxy:
        await proxy.ask(asking("k", ROOMY))
        relay.fault = lambda _: ([], False)
        assert (await proxy.ask(asking("k", ROOMY))).reason == "timeout"
        relay.heal()
        async with asyncio.timeout(PATIENCE_S):
            while (await proxy.ask(asking("k", ROOMY))).answer is not Answer.PASS:
                await asyncio.sleep(0.01)
        assert relay.accepted == 2
        # The first reply in the place of another one shows it, and no request waits for the connection to look silent.
        assert [failure and failure.reason for failure in proxy.failures] == [None, "protocol", None]


async def test_a_connection_that_is_silent_is_replaced(relay: FaultProxy) -> None:
    async with sidecar(relay.url, timeout_s=0.05) as proxy:
        await proxy.ask(asking("k", ROOMY))
        relay.fault = lambda _: ([], False)
        await proxy.ask(asking("k", ROOMY))
        await proxy.until(connected=False)
        relay.heal()
        await proxy.until(connected=True)
        assert (await proxy.ask(asking("k", ROOMY))).answer is Answer.PASS


@pytest.mark.slow
async def test_a_server_that_hangs_up_upon_every_call_is_not_stormed() -> None:
    async with fake_store(b"") as fake, sidecar(fake.url, timeout_s=0.05) as proxy:
        await failed_share(proxy, 1.0)
        assert fake.connections <= 12


@pytest.mark.slow
async def test_a_server_that_hangs_up_upon_every_connection_is_not_stormed() -> None:
    async with fake_store(b"") as fake:
        fake.hangs_up_after = b"ROLE"
        async with sidecar(fake.url, timeout_s=0.05):
            await asyncio.sleep(1.0)
            assert fake.connections <= 12


# -- the role ---------------------------------------------------------------------------------------------------------


async def test_a_server_without_the_command_role_is_used(start_store: StartStore) -> None:
    async with sidecar(start_store("--rename-command", "ROLE", "").url) as proxy:
        assert (await proxy.ask(asking("k"))).answer is Answer.PASS


async def test_a_proxy_that_hangs_up_upon_role_is_used() -> None:
    async with fake_store(ONE_LEFT) as fake:
        fake.hangs_up_on = b"ROLE"
        async with sidecar(fake.url) as proxy:
            assert (await proxy.ask(asking("k"))).answer is Answer.PASS
        assert fake.connections == 2
