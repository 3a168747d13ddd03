"""Random configurations, requests and times: the script, its reference and `simulate` decide alike."""

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from sidegate.commands.simulate.logged_request import LoggedFields, LoggedRequest
from sidegate.commands.simulate.replay import Replay
from sidegate.config import ConfigError, compile_policies, parse
from sidegate.decision.bucket import Bucket, Charge, Level, Limit, settle
from sidegate.decision.charging import passed
from sidegate.decision.policy import PolicyMatch, PolicySet
from sidegate.decision.request import RequestFacts
from sidegate.decision.verdict import Answer

from tests.servers import StoreServer
from tests.store.virtual_time import START, ReferenceStore, ScriptStore, VirtualStore, allowed

pytestmark = pytest.mark.slow

SECOND = 1_000_000
NAMES = ("first", "second", "third")
USERS = ("u1", "u2", None)


# -- what is drawn ----------------------------------------------------------------------------------------------------


def optional(draw: st.DrawFn, key: str, values: st.SearchStrategy[Any]) -> dict[str, Any]:
    return {key: draw(values)} if draw(st.booleans()) else {}


@st.composite
def limits(draw: st.DrawFn) -> dict[str, Any]:
    count, period = draw(st.integers(1, 8)), draw(st.sampled_from(["s", "2.5s", "7s", "m", "h"]))
    return {
        "limit": f"{count}/{period}",
        "burst": draw(st.integers(1, 10)),
        **optional(draw, "initial", st.integers(0, 12)),
    }


@st.composite
def policies(draw: st.DrawFn, name: str) -> dict[str, Any]:
    match = {
        **optional(draw, "path", st.sampled_from(["/**", "/api/**", "/api/x", ["/z", "/api/*"]])),
        **optional(draw, "method", st.sampled_from(["GET", ["POST", "PUT"]])),
        **optional(draw, "header", st.sampled_from([{"X-Plan": "free"}, {"X-Plan": True}])),
        **optional(draw, "client_ip", st.sampled_from(["10.0.0.1", "10.0.0.0/8"])),
    }
    if draw(st.integers(0, 9)) == 0:
        return {"name": name, "exempt": True, "match": {**match, "path": "/api/x"}}
    rule = draw(limits())
    cost = draw(st.integers(1, min(3, rule["burst"])))
    overrides = [{"key": "u1", **each} for each in ({"blocked": True}, {"exempt": True})]
    overriding = draw(st.sampled_from([[], *([each] for each in overrides)]))
    if draw(st.booleans()):
        overriding = [{"key": "u2", "limit": "2/s", "burst": 5}, *overriding]
    keys = [
        "header:X-User",
        "header:X-User | client_ip",
        "client_ip | header:X-User",
        "path",
        ["header:X-User", "method"],
    ]
    key = draw(st.sampled_from([keys[0], keys[1], "client_ip", "path", keys[4]]))
    by_user = key in keys[:2]
    return {
        "name": name,
        **({"match": match} if match else {}),
        "key": key,
        **rule,
        "cost": draw(st.sampled_from([cost, {"POST": cost}])),
        "idle_ttl": draw(st.sampled_from(["1s", "1h"])),
        **optional(draw, "shadow", st.booleans()),
        **({"overrides": overriding} if by_user and overriding else {}),
    }


@st.composite
def documents(draw: st.DrawFn) -> list[dict[str, Any]]:
    drawn = [draw(policies(name)) for name in NAMES[: draw(st.integers(1, 3))]]
    # A limit on exactly what an exemption matches can never apply, which is a fault of the configuration.
    exempt = [policy for policy in drawn if policy.get("exempt")]
    return exempt + [policy for policy in drawn if not policy.get("exempt") and not _lies_below(policy, exempt)]


def _lies_below(policy: dict[str, Any], exempt: list[dict[str, Any]]) -> bool:
    try:
        parse(yaml.safe_dump({"policies": [*exempt, policy]}), "c.yaml", {})
    except ConfigError:
        return True
    return False


class Step(NamedTuple):
    """A request, and how long after the one before it comes."""

    gap_us: int
    facts: RequestFacts


@st.composite
def steps(draw: st.DrawFn) -> Step:
    user, plan = draw(st.sampled_from(USERS)), draw(st.sampled_from(["free", "paid", None]))
    fields = CIMultiDict([(name, value) for name, value in (("X-User", user), ("X-Plan", plan)) if value])
    gap = draw(st.sampled_from([0, 0, 1, 500_000, SECOND, 3 * SECOND, 3600 * SECOND]) | st.integers(0, 10 * SECOND))
    facts = RequestFacts(
        draw(st.sampled_from(["GET", "POST"])),
        draw(st.sampled_from(["/api/x", "/api/y", "/z"])),
        fields,
        draw(st.sampled_from(["10.0.0.1", "10.0.0.2"])),
    )
    return Step(gap, facts)


histories = st.lists(steps(), min_size=1, max_size=30)


def compiled(policies: Sequence[dict[str, Any]]) -> PolicySet:
    text = yaml.safe_dump({"client_ip": {"trusted_proxies": []}, "policies": policies})
    return compile_policies(parse(text, "c.yaml", {}))


# -- how it is decided ------------------------------------------------------------------------------------------------


class Decided(NamedTuple):
    passes: bool
    charges: Sequence[Charge]
    levels: Sequence[Level]


def decided_by(store: VirtualStore, applied: Sequence[PolicyMatch], now_us: int) -> Decided:
    """What the limiter makes of the policies that apply: a blocked key is refused without a question."""
    if any(entry.charge is None and not entry.policy.shadow for entry in applied):
        return Decided(False, (), ())
    charges = [entry.charge for entry in applied if entry.charge is not None]
    if not charges:
        return Decided(True, (), ())
    (levels,) = store.decide([charges], now_us)
    known = [level for level in levels if level is not None]
    return Decided(passed(charges, known), charges, known)


class Spending:
    """What each bucket admitted, and when; and whether any interval had more than its bound."""

    def __init__(self) -> None:
        self._admitted: dict[str, list[tuple[int, int]]] = defaultdict(list)

    def note(self, decided: Decided, now_us: int) -> None:
        if decided.passes:
            for charge, level in zip(decided.charges, decided.levels, strict=True):
                if level.enough:
                    self._admitted[charge.key].append((now_us, charge.cost))

    def assert_within(self, limits_of: dict[str, list[Limit]]) -> None:
        for key, admitted in self._admitted.items():
            burst = max(limit.burst for limit in limits_of[key])
            rate = max(Fraction(limit.rate.tokens, limit.rate.period_us) for limit in limits_of[key])
            for first, (began_us, _) in enumerate(admitted):
                total = 0
                for now_us, cost in admitted[first:]:
                    total += cost
                    assert total <= burst + rate * (now_us - began_us), key


def assert_all_or_nothing(decided: Decided, before: dict[str, Bucket | None], now_us: int) -> None:
    for charge, level in zip(decided.charges, decided.levels, strict=True):
        held = settle(before[charge.key], charge.limit, now_us).tokens
        assert level.tokens == held - (charge.cost if decided.passes and level.enough else 0)
        assert level.enough == (held >= charge.cost)


@pytest.mark.long
@settings(max_examples=150)
@given(policies=documents(), history=histories)
def test_script_reference_and_simulate_decide_alike_and_charge_all_or_nothing(
    store_server: StoreServer, policies: list[dict[str, Any]], history: list[Step]
) -> None:
    store_server.client.flushall()
    policy_set = compiled(policies)
    script, reference, replay = ScriptStore(store_server.client), ReferenceStore(), Replay(compiled(policies))
    spending, limits_of = Spending(), defaultdict[str, list[Limit]](list)
    now_us = START
    for gap_us, facts in history:
        now_us += gap_us
        applied = policy_set.applying(facts)
        keys = [entry.charge.key for entry in applied if entry.charge is not None]
        assert len(set(keys)) == len(keys)
        reference.decide([], now_us)  # what has expired is gone
        before = {key: stored.bucket if (stored := reference.found(key)) else None for key in keys}
        decided = decided_by(reference, applied, now_us)
        assert decided_by(script, applied, now_us) == decided
        verdict = replay.take(LoggedRequest(now_us, zone_known=True, facts=facts, fields=LoggedFields({}), status=200))
        if applied:
            assert verdict is not None
            assert (verdict.answer is Answer.PASS) == decided.passes
            assert [level for level in verdict.levels if level is not None] == list(decided.levels)
        assert_all_or_nothing(decided, before, now_us)
        spending.note(decided, now_us)
        for charge in decided.charges:
            limits_of[charge.key].append(charge.limit)
    spending.assert_within(limits_of)


@st.composite
def edited(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """One policy before and after an edit of its numbers."""
    key = draw(st.sampled_from(["header:X-User | client_ip", "path"]))
    ttl = st.sampled_from(["1s", "1h"])
    before, after = ({"name": "first", "key": key, **draw(limits()), "idle_ttl": draw(ttl)} for _ in range(2))
    return before, after


@pytest.mark.long
@settings(max_examples=150)
@given(edit=edited(), history=st.lists(st.tuples(steps(), st.booleans()), min_size=1, max_size=40))
def test_a_reload_at_any_point_never_admits_more_than_old_and_new_together(
    store_server: StoreServer, edit: tuple[dict[str, Any], dict[str, Any]], history: list[tuple[Step, bool]]
) -> None:
    """Each request meets a sidecar that has, or has not yet, taken the edit over: in any order, back and forth."""
    store_server.client.flushall()
    versions = [compiled([policy]) for policy in edit]
    script, reference = ScriptStore(store_server.client), ReferenceStore()
    spending, limits_of = Spending(), defaultdict[str, list[Limit]](list)
    both: list[Limit] = [limit for version in versions for policy in version.policies if (limit := policy.limit)]
    now_us = START
    for (gap_us, facts), edited_already in history:
        now_us += gap_us
        applied = versions[edited_already].applying(facts)
        decided = decided_by(reference, applied, now_us)
        assert decided_by(script, applied, now_us) == decided
        spending.note(decided, now_us)
        for charge in decided.charges:
            limits_of[charge.key] = both
    spending.assert_within(limits_of)


# -- the example of the documentation, to the token -------------------------------------------------------------------

TOGETHER = """
policies:
  - {name: user-second, key: header:X-User, limit: 10/s}
  - {name: user-hour, key: header:X-User, limit: 1000/hour}
  - {name: tenant, key: header:X-Tenant, limit: 5000/s}
"""


def test_ten_a_second_and_a_thousand_an_hour_and_a_tenants_five_thousand_a_second(store_server: StoreServer) -> None:
    policy_set = compile_policies(parse(TOGETHER, "c.yaml", {}))
    store = ScriptStore(store_server.client)

    def admitted(user: str, requests: int, at_us: int) -> int:
        facts = RequestFacts("GET", "/", CIMultiDict({"X-User": user, "X-Tenant": "t"}), "10.0.0.1")
        charges = [entry.charge for entry in policy_set.applying(facts) if entry.charge is not None]
        return sum(allowed(charges, levels) for levels in store.decide([charges] * requests, START + at_us))

    assert admitted("a", 20, 0) == 10  # by the second
    assert [admitted("a", 20, second * SECOND) for second in range(1, 100)] == [10] * 99
    # 1000 in its bucket and 27 grown in 99 s: 1000 are spent, so the hour admits what grew and no more.
    assert admitted("a", 20, 100 * SECOND) == 10
    assert admitted("a", 20, 101 * SECOND) == 10
    assert admitted("a", 20, 102 * SECOND) == 8
    # 500 users a second take all of the tenant's tokens; the 501st finds none, and keeps its own.
    for number in range(500):
        assert admitted(f"u{number}", 10, 3600 * SECOND) == 10
    assert admitted("late", 1, 3600 * SECOND) == 0
    assert store.found("example:user-second:late") is None
