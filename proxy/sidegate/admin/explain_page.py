"""An explanation as JSON: what `POST /explain` answers and `sidegate explain --json` prints."""

from collections.abc import Mapping

from sidegate.config import Settings
from sidegate.decision.bucket import Level
from sidegate.decision.explanation import Consideration, Explanation, MatchResult
from sidegate.decision.identity import SECRET_FIELDS
from sidegate.decision.match import Mismatch
from sidegate.decision.verdict import Verdict

MASK = "**********"

Levels = Mapping[str, Level | None]


def levels_by_policy(verdict: Verdict | None) -> Levels:
    """What each policy's bucket holds; empty where nobody looked."""
    if verdict is None:
        return {}
    return {entry.policy.name: level for entry, level in zip(verdict.applied, verdict.levels, strict=True)}


def as_json(explanation: Explanation, settings: Settings, levels: Levels, *, own_page: bool) -> dict[str, object]:
    """For programs. `result` is one of own_page, bad_request, exempt, blocked, unlimited, limited."""
    facts = explanation.facts
    return {
        "method": facts.method,
        "target": facts.target,
        "paths": list(explanation.paths),
        "peer": facts.peer,
        "client": explanation.client,
        "client_group": explanation.client_group,
        "result": result_word(explanation, own_page),
        "bad_request": explanation.ambiguous or None,
        "policies": [] if own_page else [_item_json(item, settings, levels) for item in explanation.considered],
    }


def result_word(explanation: Explanation, own_page: bool) -> str:
    """One of own_page, bad_request, exempt, blocked, unlimited, limited."""
    parts = {item.result for item in explanation.considered}
    if own_page:
        return "own_page"
    if explanation.ambiguous:
        return "bad_request"
    if MatchResult.EXEMPTS in parts:
        return "exempt"
    if any(item.result is MatchResult.BLOCKED and not item.policy.shadow for item in explanation.considered):
        return "blocked"
    return "limited" if MatchResult.APPLIES in parts or MatchResult.BLOCKED in parts else "unlimited"


def wanted(settings: Settings, name: str, mismatch: Mismatch) -> list[str]:
    """What the configuration asks for in the place that does not match, as it is written there."""
    match = next(policy.match for policy in settings.policies if policy.name == name)
    kind, _, field = mismatch.condition.partition(" ")
    if kind == "header" and field.lower() in SECRET_FIELDS:
        return [MASK]
    if kind == "header":
        return next(list(condition.values) for condition in match.header if condition.name == field)
    return {
        "path": list(match.path),
        "method": list(match.method),
        "host": list(match.host),
        "client_ip": [str(network) for network in match.client_ip],
    }[kind]


def _item_json(item: Consideration, settings: Settings, levels: Levels) -> dict[str, object]:
    described: dict[str, object] = {"name": item.policy.name, "part": item.result.value, "shadow": item.policy.shadow}
    if item.mismatch is not None:
        described["condition"], described["found"] = item.mismatch.condition, item.mismatch.found or None
        described["wanted"] = wanted(settings, item.policy.name, item.mismatch)
    if item.key:
        described["key"] = item.key
    if (charge := item.charge) is not None:
        limit = charge.limit
        described |= {"bucket": charge.key, "cost": charge.cost, "override": item.overridden}
        described["limit"] = {
            "tokens": limit.rate.tokens,
            "period_us": limit.rate.period_us,
            "burst": limit.burst,
            "initial": limit.initial,
        }
        if (level := levels.get(item.policy.name)) is not None:
            described["live"] = {
                "tokens": level.tokens,
                "enough": level.tokens >= charge.cost,
                "retry_s": limit.wait_us(charge.cost - level.tokens, level.age_us) / 1e6,
                "full_s": limit.wait_us(limit.burst - level.tokens, level.age_us) / 1e6,
            }
    return described
