"""The cost of matching one request depends on the policies that can match it, and on no others and no overrides."""

import pytest
from sidegate.config import compile_policies, parse
from sidegate.decision.policy import PolicySet

from tests.decision.asked import facts
from tests.decision.instruction_count import instructions

ONE = "{name: p0, key: 'header:X-User-ID', limit: 10/minute, match: {path: /api/**}, overrides: [%s]}"
LISTED = "{limit: 5/s, key: [%s]}"


def matching(policy_set: PolicySet, user: str) -> int:
    """Return the instructions of matching a request whose path is cached."""
    request = facts(("X-User-ID", user), target="/api/data")
    policy_set.applying(request)
    return instructions(lambda: policy_set.applying(request))


def compiled(*policies: str) -> PolicySet:
    return compile_policies(parse(f"policies: [{', '.join(policies)}]", "c.yaml", {}))


def with_overrides(number: int) -> PolicySet:
    keys = LISTED % ", ".join(f"user-{n}" for n in range(number))
    return compiled(ONE % keys)


def also(name: str, path: str) -> str:
    return f"{{name: {name}, key: 'header:X-User-ID', limit: 10/minute, match: {{path: {path}}}}}"


@pytest.mark.slow
@pytest.mark.parametrize("user", ["user-0", "somebody-else"])
def test_ten_thousand_overrides_cost_a_request_as_much_as_one(user: str) -> None:
    few, many = with_overrides(1), with_overrides(10_000)
    assert len(many.policies[0].overrides) == 10_000
    assert matching(many, user) == matching(few, user) > 0


@pytest.mark.slow
def test_policies_of_other_paths_cost_a_request_nothing() -> None:
    alone = compiled(also("a", "/api/**"))
    among = compiled(*(also(f"other-{n}", f"/other/{n}/**") for n in range(500)), also("a", "/api/**"))
    assert matching(among, "alice") == matching(alone, "alice") > 0


def test_each_policy_that_can_match_costs_the_same() -> None:
    costs = [matching(compiled(*(also(f"p{n}", "/api/**") for n in range(number))), "alice") for number in (2, 3, 10)]
    step = costs[1] - costs[0]
    assert step > 0
    assert costs[2] == costs[0] + 8 * step
