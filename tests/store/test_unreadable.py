"""A bucket that cannot be read takes its own failure mode; the other buckets of the request decide as usual."""

from collections.abc import Iterator

import pytest
from sidegate.decision.bucket import Charge, ChargeKind
from sidegate.decision.policy import OnStoreFailure, PolicyMatch
from sidegate.decision.verdict import Answer, DecisionSource, Outcome, Verdict
from sidegate.store.cluster.slots import slot_of
from sidegate.store.limiter import MOST_UNDECIDED
from sidegate.telemetry.outcomes import policy_outcomes

from tests.chaos.fault_proxy import FaultProxy
from tests.servers import StoreServer
from tests.store.sidecar import Sidecar, all_of, asking, hourly, sidecar
from tests.topologies import ClusterTrio

ALLOW, DENY, LOCAL = OnStoreFailure.ALLOW, OnStoreFailure.DENY, OnStoreFailure.LOCAL
PASS, REFUSE, UNAVAILABLE = Answer.PASS, Answer.REFUSE, Answer.UNAVAILABLE
# `braces` have one slot, so that a Cluster decides them by one call.
POISONED, SAME_SLOT, OTHER_SLOT = "poisoned-{a}", "user-{a}", "user-{b}"


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[ClusterTrio]:
    cluster = ClusterTrio()
    yield cluster
    cluster.stop()


@pytest.fixture(params=["one server", "one slot", "two slots"])
def poisoned(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The URL of a store of which one key is no bucket, and the key of a bucket beside it."""
    if request.param == "one server":
        server: StoreServer = request.getfixturevalue("store_server")
        server.client.set(POISONED, "a string")
        return server.url, OTHER_SLOT
    cluster: ClusterTrio = request.getfixturevalue("shared_cluster")
    cluster.empty()
    cluster.owner(slot_of(POISONED)).client.set(POISONED, "a string")
    return cluster.url, SAME_SLOT if request.param == "one slot" else OTHER_SLOT


async def one_after_the_other(proxy: Sidecar, count: int, *applied: PolicyMatch) -> list[Verdict]:
    verdicts = []
    for _ in range(count):
        proxy.deny_cache.clear()
        verdicts.append(await proxy.ask(*applied))
    return verdicts


async def left(proxy: Sidecar, entry: PolicyMatch) -> int:
    ((level,)) = (await proxy.look(entry)).levels
    assert level is not None
    return level.tokens


async def test_a_healthy_bucket_decides_beside_an_unreadable_one_that_allows(poisoned: tuple[str, str]) -> None:
    url, key = poisoned
    async with sidecar(url) as proxy:
        user, everyone = asking(key, hourly(4)), asking(POISONED, on_store_failure=ALLOW)
        verdicts = await one_after_the_other(proxy, 10, user, everyone)
        assert [verdict.answer for verdict in verdicts] == [PASS] * 4 + [REFUSE] * 6
        assert {verdict.decided_by for verdict in verdicts} == {DecisionSource.STORE}
        assert policy_outcomes(verdicts[0]) == [("p", Outcome.ALLOWED), ("p", Outcome.STORE_ALLOWED)]
        assert [level and level.tokens for level in verdicts[0].levels] == [3, None]
        assert verdicts[0].passed_unchecked
        assert (verdicts[0].reason, verdicts[-1].refusing) == ("unreadable_bucket", ("p",))


async def test_an_unreadable_bucket_that_denies_costs_the_others_nothing(poisoned: tuple[str, str]) -> None:
    url, key = poisoned
    async with sidecar(url) as proxy:
        user = asking(key, hourly(4), on_store_failure=ALLOW)
        verdicts = await one_after_the_other(proxy, 5, user, asking(POISONED))
        assert {(verdict.answer, verdict.reason) for verdict in verdicts} == {(UNAVAILABLE, "unreadable_bucket")}
        assert await left(proxy, user) == 4


async def test_this_proxys_share_decides_for_an_unreadable_bucket(poisoned: tuple[str, str]) -> None:
    url, key = poisoned
    async with sidecar(url) as proxy:
        proxy.proxies = 3
        user, everyone = asking(key, hourly(100)), asking(POISONED, hourly(12), on_store_failure=LOCAL)
        verdicts = await one_after_the_other(proxy, 10, user, everyone)
        assert [verdict.answer for verdict in verdicts] == [PASS] * 4 + [REFUSE] * 6
        assert {verdict.decided_by for verdict in verdicts} == {DecisionSource.LOCAL}
        assert policy_outcomes(verdicts[-1]) == [("p", Outcome.ALLOWED), ("p", Outcome.LOCAL_REFUSED)]
        assert await left(proxy, user) == 96  # the refusals cost nothing


async def test_a_request_that_the_second_call_refuses_costs_the_share_nothing(poisoned: tuple[str, str]) -> None:
    url, key = poisoned
    async with sidecar(url) as proxy:
        user, everyone = asking(key, hourly(3)), asking(POISONED, hourly(20), on_store_failure=LOCAL)
        # All find three tokens by the first call, and all but three find none by the second.
        verdicts = await all_of([proxy.ask(user, everyone) for _ in range(10)])
        passed = [verdict.answer for verdict in verdicts].count(PASS)
        assert 1 <= passed <= 3  # reservations in several slots may refuse each other
        assert {verdict.decided_by for verdict in verdicts if verdict.answer is REFUSE} == {DecisionSource.STORE}
        alone = await one_after_the_other(proxy, 20, everyone)
        assert [verdict.answer for verdict in alone].count(PASS) == 20 - passed


async def test_a_hold_of_a_share_ends_where_the_second_call_refuses(store_server: StoreServer) -> None:
    store_server.client.set(POISONED, "a string")
    async with sidecar(store_server.url) as proxy:
        limit = hourly(20)
        entry = asking(POISONED, limit, on_store_failure=LOCAL)
        everyone = entry._replace(charge=Charge(POISONED, limit, 5, kind=ChargeKind.HOLD))
        verdicts = await all_of([proxy.ask(asking("user", hourly(1)), everyone) for _ in range(4)])
        assert [verdict.answer for verdict in verdicts].count(PASS) == 1
        alone = await one_after_the_other(proxy, 20, entry)
        assert [verdict.answer for verdict in alone].count(PASS) == 20 - 5


async def test_a_second_call_that_fails_leaves_the_whole_request_to_the_failure_modes(
    own_store_server: StoreServer,
) -> None:
    own_store_server.client.set(POISONED, "a string")
    relay = FaultProxy(own_store_server.port)
    try:
        async with sidecar(relay.url) as proxy:
            await proxy.ask(asking("warm"))
            replies: list[bytes] = []

            def only_the_first(data: bytes) -> tuple[list[bytes], bool]:
                replies.append(data)
                return ([data], False) if len(replies) == 1 else ([], True)

            relay.fault = only_the_first
            everyone = asking(POISONED, hourly(20), on_store_failure=LOCAL)
            verdict = await proxy.ask(asking("user"), everyone)
            assert (verdict.answer, verdict.reason) == (UNAVAILABLE, "connection_lost")
            assert proxy.limiter.undecided == 0
            relay.heal()
            await proxy.until(connected=True)
            alone = await one_after_the_other(proxy, 25, everyone)
            assert [verdict.answer for verdict in alone].count(PASS) == 20
    finally:
        relay.stop()


async def test_to_look_at_buckets_beside_an_unreadable_one_shows_them(poisoned: tuple[str, str]) -> None:
    url, key = poisoned
    async with sidecar(url) as proxy:
        user, everyone = asking(key, hourly(4)), asking(POISONED, on_store_failure=ALLOW)
        for _ in range(2):
            verdict = await proxy.look(user, everyone)
            assert [level and level.tokens for level in verdict.levels] == [4, None]


async def test_requests_that_wait_for_their_second_call_count_as_undecided(store_server: StoreServer) -> None:
    async with sidecar(store_server.url) as proxy:
        proxy.limiter._unreadable.undecided = MOST_UNDECIDED
        verdict = await proxy.ask(asking("k"))
        assert (verdict.answer, verdict.reason) == (Answer.UNAVAILABLE, "overloaded")
