"""A replay and a sidecar decide alike: random policies, requests and times through both."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from sidegate.commands.simulate.logged_request import LoggedFields, LoggedRequest
from sidegate.commands.simulate.replay import Replay
from sidegate.config import StoreSettings, compile_policies
from sidegate.config.load import parse
from sidegate.decision.bad_request import BadRequest
from sidegate.decision.bucket import Charge
from sidegate.decision.policy import PolicySet
from sidegate.decision.request import RequestFacts
from sidegate.decision.verdict import Answer, Verdict
from sidegate.store.deny_cache import DenyCache
from sidegate.store.limiter import Limiter
from sidegate.store.protocol import Command, OnLevels, OnReplies, OnReply, StoreUnavailable

from tests.servers import StoreServer
from tests.store.virtual_time import START, ReferenceStore, ScriptStore, VirtualStore

SECOND = 1_000_000
USER_KEY = "header:X-User-ID | client_ip"
KEYS = [USER_KEY, USER_KEY, USER_KEY, "client_ip", ["header:X-Tenant", "header:X-User-ID"], "method", "path:1"]
MATCHES: list[dict[str, Any]] = [
    {}, {}, {}, {"path": "/a/**"}, {"path": ["/a", "/b/*"]}, {"method": "POST"}, {"header": {"X-Tenant": "acme"}},
    {"client_ip": "192.0.2.0/31"},
]  # fmt: skip


@st.composite
def policies(draw: st.DrawFn, name: str) -> dict[str, Any]:
    match = draw(st.sampled_from(MATCHES))
    if draw(st.integers(0, 7)) == 0:
        return {"name": name, "match": {"path": "/free/**"}, "exempt": True}
    burst = draw(st.integers(2, 8))
    policy = {
        "name": name, "match": match, "key": draw(st.sampled_from(KEYS)), "burst": burst,
        "limit": f"{draw(st.integers(1, 9))}/{draw(st.sampled_from(['s', 'minute', '7s', 'hour']))}",
        "initial": draw(st.integers(0, burst)), "idle_ttl": draw(st.sampled_from(["1s", "1m", "1h"])),
        "cost": draw(st.sampled_from([1, 2, {"POST": 2}])), "shadow": draw(st.booleans()),
    }  # fmt: skip
    if policy["key"] == USER_KEY:
        rules = [{"blocked": True}, {"exempt": True}, {"limit": "5/s", "burst": 5}]
        policy["overrides"] = [{"key": "alice", **draw(st.sampled_from(rules))}]
    return policy


@st.composite
def configurations(draw: st.DrawFn) -> PolicySet:
    written = [draw(policies(f"p{number}")) for number in range(draw(st.integers(2, 4)))]
    return compile_policies(parse(json.dumps({"policies": written}), "random", {}))


@st.composite
def requests(draw: st.DrawFn) -> RequestFacts:
    fields = CIMultiDict[str]()
    for name, values in (("X-User-ID", ["alice", "alice", "bob", ""]), ("X-Tenant", ["acme", "globex"])):
        for value in draw(st.lists(st.sampled_from(values), max_size=2 if draw(st.integers(0, 9)) == 0 else 1)):
            fields.add(name, value)
    target = draw(st.sampled_from(["/a", "/a/x", "/b/y", "/b%2Fy", "/free/x", "/a/../b/z", "/%zz"]))
    return RequestFacts(
        draw(st.sampled_from(["GET", "POST"])), target, fields, draw(st.sampled_from(["192.0.2.1", "192.0.2.2"]))
    )


steps = st.sampled_from([0, 0, 0, 1, SECOND // 3, SECOND, 7 * SECOND, 60 * SECOND, 3600 * SECOND])
histories = st.lists(st.tuples(steps, requests()), min_size=6, max_size=20)


class VirtualTimeStore:
    """A store at a time that the test sets; implements the part of `store.protocol.Store` that a limiter uses."""

    failure: StoreUnavailable | None = None
    key_prefix = ""

    def __init__(self, store: VirtualStore) -> None:
        self._store = store
        self.tried = asyncio.Event()
        self.now_us = START
        self.received: list[Charge] = []

    def use(self, settings: StoreSettings) -> None:
        raise NotImplementedError

    def own_breakers(self, on_closed: Callable[[], None]) -> None:
        return None

    def unserved(self, key: str) -> None:
        return None

    def ask(self, charges: Sequence[Charge], then: OnLevels) -> None:
        self.received = list(charges)
        (levels,) = self._store.decide([charges], self.now_us)
        then(levels, 0.0)

    async def keep_connected(self) -> None:
        raise NotImplementedError

    def command_each(self, command: Command, on_replies: OnReplies) -> None:
        raise NotImplementedError

    def command(self, key: str, command: Command, on_reply: OnReply) -> None:
        raise NotImplementedError

    def ping(self, on_reply: OnReply) -> None:
        raise NotImplementedError


def as_a_sidecar(policy_set: PolicySet, store: VirtualTimeStore, facts: RequestFacts) -> Verdict | None:
    """Return the limiter's verdict; None if no policy applies or the request is bad. Its deny cache is new for each
    request, because it uses the real clock.
    """
    try:
        applied = policy_set.applying(facts)
    except BadRequest:
        return None
    verdicts: list[Verdict] = []

    async def decide() -> None:
        Limiter(store, DenyCache()).decide(applied, verdicts.append)

    if applied:
        asyncio.run(decide())
    return verdicts[0] if verdicts else None


def replayed(replay: Replay, now_us: int, facts: RequestFacts) -> Verdict | None:
    return replay.take(LoggedRequest(now_us, True, facts, LoggedFields({}), 200))


@pytest.mark.slow
@given(configurations(), histories)
@pytest.mark.long
def test_a_replay_and_a_sidecar_give_every_request_the_same_verdict(
    store_server: StoreServer, policy_set: PolicySet, history: list[tuple[int, RequestFacts]]
) -> None:
    store_server.client.flushall()
    replay = Replay(policy_set)
    stores = [VirtualTimeStore(ReferenceStore()), VirtualTimeStore(ScriptStore(store_server.client))]
    now_us = START
    for step_us, facts in history:
        now_us += step_us
        verdict = replayed(replay, now_us, facts)
        for store in stores:
            store.now_us = now_us
            other = as_a_sidecar(policy_set, store, facts)
            assert (verdict is None) == (other is None)
            if verdict and other:
                assert (verdict.answer, verdict.decided_by) == (other.answer, other.decided_by)
                assert list(verdict.levels) == list(other.levels)
                assert (verdict.refusing, verdict.retry_us) == (other.refusing, other.retry_us)
    assert replay.tally.passed + replay.tally.refused + replay.tally.unlimited + replay.tally.ambiguous == len(history)


@pytest.mark.long
@pytest.mark.slow
@given(configurations(), histories)
def test_a_request_is_charged_on_all_its_limits_or_on_none_and_no_key_gets_more_than_burst_and_rate(
    policy_set: PolicySet, history: list[tuple[int, RequestFacts]]
) -> None:
    replay, now_us = Replay(policy_set), START
    charged: dict[str, list[tuple[int, int]]] = defaultdict(list)
    limits: dict[str, Charge] = {}
    for step_us, facts in history:
        now_us += step_us
        verdict = replayed(replay, now_us, facts)
        if verdict is None:
            continue
        passes = verdict.answer is Answer.PASS
        for match, level in zip(verdict.applied, verdict.levels, strict=True):
            charge = match.charge
            if charge is None or level is None:
                continue
            assert level.enough or match.policy.shadow or not passes
            if passes and level.enough:
                charged[charge.key].append((now_us, charge.cost))
                limits[charge.key] = charge
    for key, spent in charged.items():
        limit = limits[key].limit
        rate = Fraction(limit.rate.tokens, limit.rate.period_us)
        for first in range(len(spent)):
            for last in range(first, len(spent)):
                cost = sum(each for _, each in spent[first : last + 1])
                assert cost <= limit.burst + rate * (spent[last][0] - spent[first][0])
