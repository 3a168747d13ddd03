"""Many requests of several buckets in different slots: tokens are neither lost nor admitted twice.

Each test counts tokens against the clocks of the nodes: what was admitted and what is left in a bucket is what it held
and what it grew. So no test depends on how fast it runs.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from sidegate.decision.bucket import Limit, Rate
from sidegate.decision.policy import PolicyMatch
from sidegate.decision.verdict import Answer, DecisionSource
from sidegate.store.cluster.slots import slot_of

from benchmarks.cluster_limits import delayed, in_different_nodes
from tests.store.sidecar import PATIENCE_S, Sidecar, asking, hourly, sidecar
from tests.topologies import ClusterTrio

CONNECTIONS = 60
LASTING_S = 0.8
# Room for all that grows in a test on a slow machine.
BURST = 1_000_000


@contextlib.asynccontextmanager
async def three_sidecars(url: str) -> AsyncIterator[list[Sidecar]]:
    async with sidecar(url) as one, sidecar(url) as two, sidecar(url) as three:
        yield [one, two, three]


def growing(per_s: int, initial: int = 0) -> Limit:
    return Limit(Rate(per_s, 1_000_000), BURST, initial, 60_000)


async def held(proxy: Sidecar, match: PolicyMatch) -> int:
    """Tokens of a bucket."""
    (level,) = (await proxy.look(match)).levels
    assert level is not None
    return level.tokens


async def until_connected(proxy: Sidecar, wanted: Sequence[PolicyMatch]) -> None:
    """Wait until the node of each bucket answers."""
    async with asyncio.timeout(PATIENCE_S):
        for each in wanted:
            while (await proxy.look(each)).answer is Answer.UNAVAILABLE:
                await asyncio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("per_s", "delay_s"), [(100, 0.0), (1_000, 0.0), (300, 0.001)])
async def test_greedy_clients_of_three_buckets_are_admitted_what_the_buckets_grow(
    cluster: ClusterTrio, per_s: int, delay_s: float
) -> None:
    names = in_different_nodes(cluster)
    owners = [cluster.owner(slot_of(name)) for name in names]
    wanted = [asking(name, growing(per_s)) for name in names]
    admitted = 0

    async def demand(proxy: Sidecar, until_s: float) -> None:
        nonlocal admitted
        while time.monotonic() < until_s:
            verdict = await proxy.ask(*wanted)
            assert verdict.answer is not Answer.UNAVAILABLE, verdict.reason
            admitted += verdict.answer is Answer.PASS
            await asyncio.sleep(0.005)

    with delayed(cluster, delay_s) as url:
        async with three_sidecars(url) as proxies:
            before_us = [owner.time_us() for owner in owners]
            for proxy in proxies:
                await until_connected(proxy, wanted)
            for each in wanted:
                assert (await proxies[0].ask(each)).answer is Answer.REFUSE  # the bucket begins empty
            begun_us = [owner.time_us() for owner in owners]
            until_s = time.monotonic() + LASTING_S
            await asyncio.gather(*(demand(proxies[number % 3], until_s) for number in range(CONNECTIONS)))
            ended_us = [owner.time_us() for owner in owners]
            left = [await held(proxies[0], each) for each in wanted]
            after_us = [owner.time_us() for owner in owners]
    for number in range(3):
        grown = per_s * (ended_us[number] - begun_us[number]) / 1e6
        most = per_s * (after_us[number] - before_us[number]) / 1e6
        assert 0.98 * grown - 1 <= admitted + left[number] <= most


@pytest.mark.slow
async def test_refused_users_take_nothing_of_a_limit_that_they_share_with_others(cluster: ClusterTrio) -> None:
    owner = cluster.owner(slot_of("shared"))
    shared = asking("shared", growing(500, initial=500))
    spent = Limit(Rate(1, 3_600_000_000), 1, 0, 3_600_000)
    async with three_sidecars(cluster.url) as proxies:
        before_us = owner.time_us()
        good = [await proxies[0].ask(asking("good", hourly(100)), shared)]
        begun_us = owner.time_us()
        for turn in range(30):
            refused = [proxies[number % 3].ask(asking(f"spent{turn}-{number}", spent), shared) for number in range(20)]
            good += await asyncio.gather(*(proxy.ask(asking("good", hourly(100)), shared) for proxy in proxies))
            for verdict in await asyncio.gather(*refused):
                assert (verdict.answer, verdict.decided_by) == (Answer.REFUSE, DecisionSource.STORE)
        ended_us = owner.time_us()
        left = await held(proxies[0], shared)
        after_us = owner.time_us()
    assert {verdict.answer for verdict in good} == {Answer.PASS}
    found = len(good) + left - 500
    assert 500 * (ended_us - begun_us) / 1e6 - 2 <= found <= 500 * (after_us - before_us) / 1e6


async def test_a_user_that_was_refused_before_is_refused_without_a_charge_of_others(cluster: ClusterTrio) -> None:
    spent, shared = asking("spent", hourly(1)), asking("shared", hourly(10))
    async with sidecar(cluster.url) as proxy:
        await proxy.ask(spent, shared)
        answers = []
        for _ in range(3):
            proxy.deny_cache.clear()
            answers.append(await proxy.ask(spent, shared))
        assert [verdict.answer for verdict in answers] == [Answer.REFUSE] * 3
        # The first refusal reserved, and gave back; the others did not read the shared bucket.
        assert [[level and level.tokens for level in verdict.levels] for verdict in answers] == [
            [0, 9],
            [0, None],
            [0, None],
        ]
        assert await held(proxy, shared) == 9


@pytest.mark.slow
async def test_a_node_that_hangs_between_the_two_calls_costs_one_timeout_and_no_tokens_elsewhere(
    cluster: ClusterTrio,
) -> None:
    names = in_different_nodes(cluster)
    first, second = asking(names[0], hourly(2)), asking(names[1], hourly(10))
    hung = cluster.owner(slot_of(names[1]))
    async with sidecar(cluster.url, timeout_s=0.3) as proxy:
        assert (await proxy.ask(first, second)).answer is Answer.PASS
        assert (await proxy.ask(asking(names[0], hourly(2), cost=2), second)).answer is Answer.REFUSE
        proxy.deny_cache.clear()
        hung.pause()
        try:
            begun_s = time.monotonic()
            verdict = await proxy.ask(first, second)  # the first bucket has refused: it is charged first
            assert (verdict.answer, verdict.reason) == (Answer.UNAVAILABLE, "timeout")
            assert time.monotonic() - begun_s >= 0.3
            assert await held(proxy, first) == 1
        finally:
            hung.resume()
        async with asyncio.timeout(PATIENCE_S):
            while (await proxy.look(second)).answer is not Answer.PASS:
                await asyncio.sleep(0.02)
        # The charge whose reply was lost stays spent, if the node received it at all.
        assert await held(proxy, second) in (8, 9)
