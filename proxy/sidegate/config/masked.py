"""The settings as people see them: secrets are masked."""

from typing import Any

from sidegate.config.model import Settings
from sidegate.decision.identity import SECRET_FIELDS, hashed

MASK = "**********"


def effective(settings: Settings) -> dict[str, Any]:
    """All settings. Passwords and the expected values of secret fields are masked; override keys that are secrets
    (API keys, cookies) are shown as the hash that names their bucket.
    """
    document = settings.model_dump(mode="json", by_alias=True)
    for written, policy in zip(document["policies"], settings.policies, strict=True):
        mask_match(written["match"])
        parts = policy.key.parts if policy.key else ()
        secret = [any(source.secret for source in alternatives) for alternatives in parts]
        for override, real in zip(written["overrides"], policy.overrides, strict=True):
            override["key"] = [
                [hashed(value) if hidden else value for value, hidden in zip(values, secret, strict=True)]
                for values in real.key
            ]
    return document


def mask_match(match: dict[str, Any]) -> None:
    """Mask the expected values of secret fields in a policy's match."""
    match["header"] = {
        name: MASK if name.lower() in SECRET_FIELDS and value is not True else value
        for name, value in match["header"].items()
    }
