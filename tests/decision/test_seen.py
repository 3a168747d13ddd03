"""What a rule keeps in mind of callers, so that it need not work out the same charge again."""

from collections.abc import Sequence

import pytest
from sidegate.decision.bad_request import BadRequest
from sidegate.decision.match import Match
from sidegate.decision.policy import MOST_SEEN, Policy, PolicyMatch, PolicySet

from tests.decision.asked import LOOPBACK, MINUTELY, facts, key

USER = key("header:X-User-ID | client_ip")


def compiled(policy: Policy) -> PolicySet:
    return PolicySet([policy], LOOPBACK, "p:")


def keys(applied: Sequence[PolicyMatch]) -> list[str]:
    return [entry.charge.key for entry in applied if entry.charge]


def test_a_caller_seen_before_is_charged_as_at_first_and_others_are_not_mistaken_for_him() -> None:
    policies = compiled(Policy("one", Match(), USER, MINUTELY))
    for _ in range(2):
        assert keys(policies.applying(facts(("X-User-ID", "ann")))) == ["p:one:ann"]
        assert keys(policies.applying(facts(("X-User-ID", "ben")))) == ["p:one:ben"]
        assert keys(policies.applying(facts(("X-User-ID", " ann ")))) == ["p:one:ann"]


def test_what_depends_on_more_than_the_field_is_worked_out_each_time() -> None:
    policies = compiled(Policy("one", Match(), USER, MINUTELY))
    for peer in ("192.0.2.1", "192.0.2.2"):
        for value in ("", "  "):
            assert keys(policies.applying(facts(("X-User-ID", value), peer=peer))) == [f"p:one:client_ip={peer}"]
    by_method = compiled(Policy("one", Match(), USER, MINUTELY, costs={"POST": 5}))
    costs = [by_method.applying(facts(("X-User-ID", "ann"), method=method))[0].charge for method in ("GET", "POST")]
    assert [charge.cost for charge in costs if charge] == [1, 5]


def test_an_identity_given_twice_is_a_bad_request_also_for_a_caller_seen_before() -> None:
    policies = compiled(Policy("one", Match(), USER, MINUTELY))
    policies.applying(facts(("X-User-ID", "ann")))
    with pytest.raises(BadRequest):
        policies.applying(facts(("X-User-ID", "ann"), ("X-User-ID", "ann")))


def test_callers_without_end_are_not_all_kept_in_mind() -> None:
    policies = compiled(Policy("one", Match(), USER, MINUTELY))
    for number in range(MOST_SEEN * 2 + 1):
        policies.applying(facts(("X-User-ID", f"user-{number}")))
    assert len(policies._rules[0]._seen) <= MOST_SEEN
