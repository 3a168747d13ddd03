"""The active configuration as operators see it (secrets hidden), and its policies with their requests."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

from sidegate.admin.limit_document import limit_document
from sidegate.admin.response_types import ConfigDocument, ConfigState, PolicyDocument, RecentRequests
from sidegate.config import Settings, digest
from sidegate.config.masked import effective, mask_match
from sidegate.config.policies import PolicySettings
from sidegate.decision.explanation import limit_text
from sidegate.decision.policy import Policy, PolicySet
from sidegate.decision.verdict import REFUSALS, Outcome


def policy_documents(
    settings: Settings,
    policies: PolicySet,
    since_start: Mapping[tuple[str, str], int],
    recent: Mapping[tuple[str, str], int],
    window_s: int,
    places: Mapping[str, int],
) -> list[PolicyDocument]:
    """Every policy in the order of the configuration, then removed ones with requests in the window.

    `since_start` and `recent` count by policy and outcome; `places` are requests under way by policy.
    """
    documents = [
        _policy(_written(each), policy, _outcomes(since_start, policy.name), _recent(recent, policy.name, window_s))
        for each, policy in zip(settings.policies, policies.policies, strict=True)
    ]
    for document, policy in zip(documents, policies.policies, strict=True):
        if policy.limit is not None and policy.limit.in_flight:
            document["under_way"] = places.get(policy.name, 0)
    known = {policy.name for policy in policies.policies}
    removed = sorted({name for name, _ in recent} - known - {"none"})
    return documents + [
        _removed(name, _outcomes(since_start, name), _recent(recent, name, window_s)) for name in removed
    ]


def _written(policy: PolicySettings) -> dict[str, Any]:
    """Match, key and limit as written. Overrides, which may be thousands, are not dumped: `top` asks each second."""
    written = policy.model_dump(mode="json", by_alias=True, include={"match", "key", "limit", "in_flight"})
    mask_match(written["match"])
    return written


def _removed(name: str, outcomes: dict[str, int], recent: RecentRequests) -> PolicyDocument:
    """A policy that an edit removed."""
    return {
        "name": name,
        "exempt": False,
        "shadow": False,
        "removed": True,
        "match": {},
        "overrides": 0,
        "outcomes": outcomes,
        "recent": recent,
    }


def _policy(
    written: Mapping[str, Any], policy: Policy, outcomes: dict[str, int], recent: RecentRequests
) -> PolicyDocument:
    document: PolicyDocument = {
        "name": policy.name,
        "exempt": policy.exempt,
        "shadow": policy.shadow,
        "removed": False,
        "match": written["match"],
        "overrides": len(policy.overrides),
        "outcomes": outcomes,
        "recent": recent,
    }
    if policy.limit is not None:
        document["key"] = written["key"]
        if not policy.limit.in_flight:
            document["limit"] = written["limit"]
        document["limit_text"] = limit_text(policy.limit)
        document["on_store_failure"] = policy.on_store_failure.value
        document = cast("PolicyDocument", {**document, **limit_document(policy.limit)})
    return document


def _outcomes(counts: Mapping[tuple[str, str], int], name: str) -> dict[str, int]:
    return {outcome: count for (policy, outcome), count in counts.items() if policy == name}


def _recent(counts: Mapping[tuple[str, str], int], name: str, window_s: int) -> RecentRequests:
    outcomes = Counter(_outcomes(counts, name))
    matched, refused = outcomes.total(), sum(outcomes[outcome] for outcome in REFUSALS)
    return {
        "window_s": window_s,
        "matched": matched,
        "refused": refused,
        "shadow_refused": outcomes[Outcome.SHADOW_REFUSED],
        "refused_share": round(refused / matched, 4) if matched else None,
    }


def config_document(settings: Settings, state: ConfigState, needing_restart: tuple[str, ...]) -> ConfigDocument:
    """The configuration, its hash, when it was read, and the faults of the last edit."""
    return cast(
        "ConfigDocument",
        {
            **state,
            "hash": digest(settings),
            "needs_restart": list(needing_restart),
            "origins": dict(settings.origins),
            "settings": effective(settings),
        },
    )
