"""Holds and places in a Cluster: taken, ended, and taken back where another slot refuses."""

from dataclasses import replace

from sidegate.decision.bucket import Limit, places_limit
from sidegate.decision.policy import Policy, PolicyMatch
from sidegate.decision.settling import SettleRule
from sidegate.decision.verdict import Answer
from sidegate.store.cluster.slots import slot_of

from tests.recorder import eventually
from tests.store.sidecar import asking, hourly, sidecar
from tests.topologies import ClusterTrio


def special(key: str, limit: Limit, cost: int = 1) -> PolicyMatch:
    """A policy that holds its cost, or counts requests under way."""
    entry = asking(key, limit, cost)
    policy = Policy("p", limit=limit, settle=None if limit.in_flight else SettleRule(when=frozenset({401})))
    assert entry.charge is not None
    return PolicyMatch(policy, entry.charge._replace(kind=policy.kind, detail=policy.detail))


def stored(cluster: ClusterTrio, key: str) -> tuple[int, bool, int]:
    """Tokens left, whether some are held, and places in use."""
    client = cluster.owner(slot_of(key)).client
    if client.type(key) == b"zset":
        return 0, False, int(client.zcard(key))
    return int(client.hget(key, "tokens") or 0), bool(client.hexists(key, "held")), 0


async def test_what_another_slot_refuses_holds_nothing_and_takes_no_place(cluster: ClusterTrio) -> None:
    async with sidecar(cluster.url) as proxy:
        empty = replace(hourly(5), initial=0)
        request = (asking("c-empty", empty), special("c-held", hourly(5), 2), special("c-busy", places_limit(3)))
        for _ in range(10):
            assert (await proxy.ask(*request)).answer is Answer.REFUSE
        await proxy.ask(asking("c-fence", hourly(5)))
    eventually(lambda: stored(cluster, "c-held") in ((5, False, 0), (0, False, 0)), "no holds")
    eventually(lambda: stored(cluster, "c-busy") == (0, False, 0), "no places")


async def test_an_admitted_request_holds_and_occupies_until_its_end_in_every_slot(cluster: ClusterTrio) -> None:
    async with sidecar(cluster.url) as proxy:
        verdict = await proxy.ask(special("d-held", hourly(5), 2), special("d-busy", places_limit(3)))
        assert verdict.answer is Answer.PASS
        assert stored(cluster, "d-held") == (5, True, 0)
        assert stored(cluster, "d-busy") == (0, False, 1)
        admission = verdict.admission
        assert admission is not None
        proxy.limiter.admissions.renew()
        admission.settle(0, 2)
        admission.leave()
        await proxy.ask(asking("d-fence", hourly(5)))
        eventually(lambda: stored(cluster, "d-held") == (3, False, 0), "a settled hold")
        eventually(lambda: stored(cluster, "d-busy") == (0, False, 0), "no places")
