"""An explanation as JSON: the answer of `POST /explain` and the output of `sidegate explain --json`."""

from collections.abc import Mapping

from sidegate.admin.limit_document import limit_document, seconds_until
from sidegate.admin.response_types import ExplainDocument, ExplainedPolicy
from sidegate.config import Settings
from sidegate.config.masked import MASK
from sidegate.decision.bucket import Level
from sidegate.decision.explanation import Consideration, Explanation, MatchResult, settle_text
from sidegate.decision.identity import SECRET_FIELDS
from sidegate.decision.match import Mismatch
from sidegate.decision.verdict import Verdict

LevelsByPolicy = Mapping[str, Level | None]


def levels_by_policy(verdict: Verdict | None) -> LevelsByPolicy:
    """The level of each policy's bucket; empty without a verdict."""
    if verdict is None:
        return {}
    return {entry.policy.name: level for entry, level in zip(verdict.applied, verdict.levels, strict=True)}


def as_json(explanation: Explanation, settings: Settings, levels: LevelsByPolicy, *, own_page: bool) -> ExplainDocument:
    """The explanation as a document. `own_page`: the sidecar answers the request itself."""
    facts = explanation.facts
    return {
        "method": facts.method,
        "target": facts.target,
        "paths": list(explanation.paths),
        "peer": facts.peer,
        "client": explanation.client,
        "client_group": explanation.client_group,
        "result": result_word(explanation, own_page),  # type: ignore[typeddict-item]  # one of its words
        "bad_request": explanation.ambiguous or None,
        "policies": [] if own_page else [_policy(item, settings, levels) for item in explanation.considered],
    }


def result_word(explanation: Explanation, own_page: bool) -> str:
    """One of own_page, bad_request, exempt, blocked, unlimited, limited."""
    results = {item.result for item in explanation.considered}
    if own_page:
        return "own_page"
    if explanation.ambiguous:
        return "bad_request"
    if MatchResult.EXEMPTS in results:
        return "exempt"
    if any(item.result is MatchResult.BLOCKED and not item.policy.shadow for item in explanation.considered):
        return "blocked"
    return "limited" if MatchResult.APPLIES in results or MatchResult.BLOCKED in results else "unlimited"


def wanted(settings: Settings, name: str, mismatch: Mismatch) -> list[str]:
    """The values of the condition that does not match, as the configuration spells them."""
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
        "client_cert": list(match.client_cert),
    }[kind]


def _policy(item: Consideration, settings: Settings, levels: LevelsByPolicy) -> ExplainedPolicy:
    document: ExplainedPolicy = {"name": item.policy.name, "part": item.result.value, "shadow": item.policy.shadow}
    if item.mismatch is not None:
        document["condition"], document["found"] = item.mismatch.condition, item.mismatch.found or None
        document["wanted"] = wanted(settings, item.policy.name, item.mismatch)
    if item.matched_paths:
        document["matched_paths"] = list(item.matched_paths)
    if item.key:
        document["key"] = item.key
    if (charge := item.charge) is not None:
        document["bucket"], document["cost"], document["override"] = charge.key, charge.cost, item.overridden
        document["limit"] = limit_document(charge.limit)
        if settles := settle_text(item.policy):
            document["settle"] = settles
        if (level := levels.get(item.policy.name)) is not None:
            document["live"] = {
                "tokens": level.tokens,
                "enough": level.tokens >= charge.cost,
                "retry_s": seconds_until(charge.limit, level, charge.cost),
                "full_s": seconds_until(charge.limit, level, charge.limit.burst),
            }
    return document
