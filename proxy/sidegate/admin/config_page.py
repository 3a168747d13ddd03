"""The configuration as an operator may see it: what is in force, without its secrets."""

from collections.abc import Mapping
from typing import Any

from sidegate.admin.explain_page import MASK
from sidegate.config import Settings, digest
from sidegate.decision.identity import SECRET_FIELDS, hashed
from sidegate.decision.policy import PolicySet


def effective(settings: Settings) -> dict[str, Any]:
    """All settings. Passwords are masked, and so is what a secret field must hold; keys of overrides that are secrets
    (API keys, cookies) are shown as the hash that names their bucket.
    """
    document = settings.model_dump(mode="json", by_alias=True)
    for written, policy in zip(document["policies"], settings.policies, strict=True):
        header = written["match"]["header"]
        written["match"]["header"] = {
            name: MASK if name.lower() in SECRET_FIELDS and value is not True else value
            for name, value in header.items()
        }
        parts = policy.key.parts if policy.key else ()
        secret = [any(source.secret for source in alternatives) for alternatives in parts]
        for override, real in zip(written["overrides"], policy.overrides, strict=True):
            override["key"] = [
                [hashed(value) if hidden else value for value, hidden in zip(values, secret, strict=True)]
                for values in real.key
            ]
    return document


def policies_page(
    settings: Settings, policies: PolicySet, outcomes: Mapping[tuple[str, str], int]
) -> list[dict[str, object]]:
    """Every policy with what it has decided since the start."""
    page = []
    for written, policy in zip(effective(settings)["policies"], policies.policies, strict=True):
        counts = {outcome: count for (name, outcome), count in outcomes.items() if name == policy.name}
        entry = {
            "name": policy.name,
            "exempt": policy.exempt,
            "shadow": policy.shadow,
            "match": written["match"],
            "overrides": len(policy.overrides),
            "outcomes": counts,
        }
        if policy.limit is not None:
            rate = policy.limit.rate
            entry |= {
                "key": written["key"],
                "limit": written["limit"],
                "tokens": rate.tokens,
                "period_us": rate.period_us,
                "burst": policy.limit.burst,
                "initial": policy.limit.initial,
                "on_store_failure": policy.on_store_failure.value,
            }
        page.append(entry)
    return page


def config_page(settings: Settings, about: Mapping[str, object], needing_restart: tuple[str, ...]) -> dict[str, object]:
    """The configuration, its hash, when it was read, and what was wrong with the last edit."""
    return {
        "hash": digest(settings),
        **about,
        "needs_restart": list(needing_restart),
        "settings": effective(settings),
    }
