"""Limits and levels as JSON."""

from sidegate.admin.response_types import LimitDocument
from sidegate.decision.bucket import Level, Limit


def limit_document(limit: Limit) -> LimitDocument:
    """A limit as the admin API shows it."""
    if limit.in_flight:
        return {"in_flight": limit.burst}
    return {
        "tokens": limit.rate.tokens,
        "period_us": limit.rate.period_us,
        "burst": limit.burst,
        "initial": limit.initial,
    }


def seconds_until(limit: Limit, level: Level, tokens: int) -> float:
    """Seconds until the bucket holds so many tokens; 0 if it does already."""
    return limit.wait_us(tokens - level.tokens, level.age_us) / 1e6
