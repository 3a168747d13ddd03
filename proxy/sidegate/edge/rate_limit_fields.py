"""The rate-limit fields of an answer: `RateLimit-Policy`, `RateLimit`, and the three X-RateLimit-* fields.

Source: draft-ietf-httpapi-ratelimit-headers, whose field names may still change: they are written here only.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sidegate.decision.bucket import Charge, Level, Limit
from sidegate.decision.policy import Policy
from sidegate.decision.verdict import Verdict


class RateLimitFields:
    """Writes the rate-limit fields of a verdict. `standard`: the draft's two, `legacy`: the X-RateLimit-* three."""

    def __init__(self, *, standard: bool, legacy: bool) -> None:
        self._standard = standard
        self._legacy = legacy
        self._both = standard and legacy
        # Templates of a policy under a limit: one entry per limit of the configuration, by identity, which is cheaper
        # than by value. The policy and the limit are kept so that no other object can get their identity.
        self._templates: dict[int, _Templates] = {}

    def of(self, verdict: Verdict) -> bytes:
        """Whole lines, in order; empty where no bucket's level is known (no policy, or the store failed)."""
        applied = verdict.applied
        if len(applied) != 1 or not self._both:
            return self.plainly(verdict)
        # `plainly`, for the one policy of most answers: a single template.
        policy, charge = applied[0]
        level = verdict.levels[0]
        if level is None or charge is None or policy.shadow:
            return b""
        tokens, age_us, enough, _ = level
        templates = self._templates.get(id(charge.limit))
        if templates is None or templates.policy is not policy:
            templates = self._templates_of(policy, charge.limit)
        missing = templates.limit.burst - tokens
        if missing <= 0:
            return templates.full
        left = tokens if tokens > 0 else 0  # a bucket in debt; as a call, `max` would cost a tenth of all this
        if templates.limit.in_flight:
            return templates.partial % (left, left)
        # `limit.wait_us` in whole seconds, both rounded up at once.
        per_token, per_s = templates.period_us, templates.per_s
        grown = age_us * templates.tokens_per_period
        more_s = -((grown - (1 if enough else charge.cost - tokens) * per_token) // per_s)
        reset_s = -((grown - missing * per_token) // per_s)
        return templates.partial % (left, more_s if more_s > 0 else 0, left, reset_s if reset_s > 0 else 0)

    def plainly(self, verdict: Verdict) -> bytes:
        """`of`, for any number of policies."""
        known = [
            (self._templates_of(policy, charge.limit), charge, level)
            for (policy, charge), level in zip(verdict.applied, verdict.levels, strict=True)
            if level is not None and charge is not None and not policy.shadow
        ]
        if not known:
            return b""
        lines = self._standard_lines(verdict, known) if self._standard else b""
        if self._legacy:
            lines += _legacy_lines(known)
        return lines

    def _standard_lines(self, verdict: Verdict, known: "Sequence[_Known]") -> bytes:
        items = [
            b"%b;r=%d" % (templates.name, level.tokens)
            if level.tokens >= charge.limit.burst
            else b"%b;r=%d" % (templates.name, max(0, level.tokens))
            if charge.limit.in_flight
            else b"%b;r=%d;t=%d" % (templates.name, max(0, level.tokens), _more_in_s(charge, level))
            for templates, charge, level in known
        ]
        policies = [
            self._templates_of(policy, charge.limit).policy_item
            for policy, charge in verdict.applied
            if charge is not None and not policy.shadow
        ]
        return b"RateLimit-Policy: %b\r\nRateLimit: %b\r\n" % (b", ".join(policies), b", ".join(items))

    def _templates_of(self, policy: Policy, limit: Limit) -> "_Templates":
        known = self._templates.get(id(limit))
        if known is None or known.policy is not policy:
            known = self._templates[id(limit)] = _templates_for(policy, limit)
        return known


class _Templates(NamedTuple):
    """What is the same in every answer of a policy under a limit.

    `partial` takes tokens, seconds until more, tokens, seconds until full (of places: twice those that are free);
    `full` is for a full bucket.
    """

    policy: Policy
    limit: Limit
    name: bytes
    policy_item: bytes
    partial: bytes
    full: bytes
    tokens_per_period: int
    period_us: int
    per_s: int


def _templates_for(policy: Policy, limit: Limit) -> _Templates:
    quoted = b'"%b"' % policy.name.encode()
    if limit.in_flight:
        item = b'%b;q=%d;qu="concurrent-requests"' % (quoted, limit.burst)
    else:
        item = b"%b;q=%d;w=%d" % (quoted, limit.burst, -(-limit.fill_us // 1_000_000))
    head = b"RateLimit-Policy: %b\r\nRateLimit: %b" % (item, quoted)
    trio = b"X-RateLimit-Limit: %d\r\n" % limit.burst + b"X-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n"
    # A place may become free at any time: after a second it is worth another try.
    places = trio.replace(b"Reset: %d", b"Reset: 1")
    return _Templates(
        policy=policy,
        limit=limit,
        name=quoted,
        policy_item=item,
        partial=head + (b";r=%d\r\n" + places if limit.in_flight else b";r=%d;t=%d\r\n" + trio),
        full=head + b";r=%d\r\n" % limit.burst + trio % (limit.burst, 0),
        tokens_per_period=limit.rate.tokens,
        period_us=limit.rate.period_us,
        per_s=limit.rate.tokens * 1_000_000,
    )


_Known = tuple[_Templates, Charge, Level]


def _more_in_s(charge: Charge, level: Level) -> int:
    """Whole seconds until there is more quota: one token more, or the whole cost that was lacking."""
    wanted = 1 if level.enough else charge.cost - level.tokens
    return -(-charge.limit.wait_us(wanted, level.age_us) // 1_000_000)


def _legacy_lines(known: "Sequence[_Known]") -> bytes:
    # The policy nearest its end: one that refuses before one that does not, then the emptiest.
    _, charge, level = known[0] if len(known) == 1 else min(known, key=_distance_to_end)
    limit = charge.limit
    missing = min(1, limit.burst - level.tokens) if limit.in_flight else limit.burst - level.tokens
    reset_s = -(-limit.wait_us(missing, level.age_us) // 1_000_000)
    return b"X-RateLimit-Limit: %d\r\nX-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n" % (
        limit.burst,
        max(0, level.tokens),
        reset_s,
    )


def _distance_to_end(entry: "_Known") -> tuple[bool, float]:
    _, charge, level = entry
    return level.enough, level.tokens / charge.limit.burst
