"""The caller's own limits as JSON: tokens left and when more are added. Looking consumes nothing."""

from collections.abc import Callable, Mapping

from sidegate.admin.explain_page import Look
from sidegate.decision.bucket import Charge, Level
from sidegate.decision.policy import Policy, PolicyMatch, PolicySet
from sidegate.decision.request import RequestFacts
from sidegate.decision.verdict import DecisionSource


class CallerStatus:
    """Builds the status page. `look` reads levels without charging."""

    def __init__(self, policies: Callable[[], PolicySet], look: Look) -> None:
        self._policies = policies
        self._look = look

    async def page(self, facts: RequestFacts) -> tuple[int, Mapping[str, object]]:
        """Status and content for the caller of this request. Raises BadRequest if its identity is ambiguous."""
        policies = self._policies()
        applied = policies.concerning(facts)
        verdict = await self._look(applied)
        failed = verdict.decided_by is DecisionSource.STORE_FAILURE
        content: dict[str, object] = {
            "client": policies.identity.client_group(facts),
            "policies": [
                _described(policies, entry, real.charge, level)
                for entry, real, level in zip(verdict.applied, applied, verdict.levels, strict=True)
            ],
        }
        if failed:
            content["error"] = f"the store does not answer: {verdict.reason}"
        return (503 if failed else 200), content


def _described(
    policies: PolicySet, applied: PolicyMatch, charge: Charge | None, level: Level | None
) -> Mapping[str, object]:
    policy: Policy = applied.policy
    if charge is None:
        return {"name": policy.name, "blocked": True, "shadow": policy.shadow}
    limit = charge.limit
    described: dict[str, object] = {
        "name": policy.name,
        "key": policies.key_in(charge.key, policy),
        "limit": limit.burst,
        "burst": limit.burst,
        "rate": {"tokens": limit.rate.tokens, "period_us": limit.rate.period_us},
        "cost": charge.cost,
        "shadow": policy.shadow,
    }
    if limit.in_flight:
        described = {"name": policy.name, "key": described["key"], "in_flight": limit.burst, "shadow": policy.shadow}
        if level is not None:
            described["remaining"] = max(0, level.tokens)
        return described
    if level is not None:
        missing = limit.burst - level.tokens
        described["remaining"] = max(0, level.tokens)
        described["reset_s"] = -(-limit.wait_us(missing, level.age_us) // 1_000_000)
    return described
