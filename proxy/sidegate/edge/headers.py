"""Heads on their way through: hop-by-hop fields taken out, ours put in, everything else passed on byte for byte.

RFC 9110 §7.6.1 (Connection), §7.6.3 (Via); RFC 9112 §3.2.2 (absolute-form), §6 (framing); the RateLimit fields are
those of draft-ietf-httpapi-ratelimit-headers, whose names may still change: they are written in `RateLimitFields` only.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from sidegate.decision.bucket import Charge, Level, Limit
from sidegate.decision.policy import Policy
from sidegate.decision.verdict import Verdict

Fields = Iterable[tuple[bytes, bytes]]

VIA = b"Via: 1.1 sidegate\r\n"
END_OF_ANSWER_HEAD = VIA + b"\r\n"

# Never passed on. Content-Length stands here because we frame every message ourselves.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"content-length",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"})
# Expect is answered here (RFC 9110 §10.1.1); Host and the X-Forwarded fields are written by `request_head`.
_NOT_PASSED_ON = _HOP_BY_HOP | _FORWARDED | {b"expect", b"host"}
# Naming these in Connection does not take them away.
_NEVER_NAMED_AWAY = _FORWARDED | {b"host", b"content-length", b"transfer-encoding", b"cache-control", b"via"}

_ABSOLUTE = re.compile(r"https?://(?:[^/?#@]*@)?([^/?#]*)", re.IGNORECASE)
_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")


class Forwarding:
    """What is told to the application of where a request came from."""

    def __init__(self, upstream_authority: str, kept_fields: Collection[str]) -> None:
        self._authority = upstream_authority.encode()
        self._never_named_away = _NEVER_NAMED_AWAY | {name.encode() for name in kept_fields}

    def request_head(
        self,
        method: str,
        target: str,
        fields: Fields,
        connection: Sequence[str],
        peer: str,
        peer_is_trusted: bool,
        framing: bytes,
    ) -> bytes:
        """The head of the request to the application.

        `connection` holds the values of the Connection field, `framing` is a Content-Length or Transfer-Encoding line.

        X-Forwarded-* of a trusted peer are continued, those of anybody else replaced.
        """
        host, forwarded_for, forwarded_host, forwarded_proto = b"", b"", b"", b""
        dropped: Collection[bytes] = _NOT_PASSED_ON
        if connection:
            dropped = _NOT_PASSED_ON | (named_in(connection) - self._never_named_away)
        origin, authority = origin_form(target)
        lines = [method.encode(), b" ", origin.encode("utf-8", "surrogateescape"), b" HTTP/1.1\r\n"]
        for name, value in fields:
            lowered = name.lower()
            if lowered not in dropped:
                lines += (name, b": ", value, b"\r\n")
            elif lowered == b"host":
                host = value
            elif peer_is_trusted and lowered in _FORWARDED:
                if lowered == b"x-forwarded-for":
                    forwarded_for += value + b", "
                elif lowered == b"x-forwarded-host":
                    forwarded_host = value
                else:
                    forwarded_proto = value
        host = authority or host or self._authority
        lines += (b"Host: ", host, b"\r\nX-Forwarded-For: ", forwarded_for, peer.encode())
        lines += (b"\r\nX-Forwarded-Host: ", forwarded_host or host)
        lines += (b"\r\nX-Forwarded-Proto: ", forwarded_proto or b"http", b"\r\n", VIA, framing, b"\r\n")
        return b"".join(lines)


def response_head(status: int, reason: str, fields: Fields, connection: Sequence[str], added: bytes) -> bytes:
    """The head of the answer to the client. `connection` as above; `added` holds our own lines, whole."""
    return b"%b%b%b" % (passed_on(status, reason, fields, connection), added, END_OF_ANSWER_HEAD)


def passed_on(status: int, reason: str, fields: Fields, connection: Sequence[str]) -> bytes:
    """The status line of an answer, and those of its fields that go on to the client."""
    dropped: Collection[bytes] = _HOP_BY_HOP
    if connection:
        dropped = _HOP_BY_HOP | (named_in(connection) - _NEVER_NAMED_AWAY)
    lines = [status_line(status, reason)]
    for name, value in fields:
        if name.lower() not in dropped:
            lines += (name, b": ", value, b"\r\n")
    return b"".join(lines)


def named_in(connection: Sequence[str]) -> frozenset[bytes]:
    """Field names (lower case) that the values of a Connection field take away."""
    return _named_in(connection[0]) if len(connection) == 1 else _named_in(",".join(connection))


@lru_cache(256)
def _named_in(connection: str) -> frozenset[bytes]:
    options = connection.encode("utf-8", "surrogateescape").lower().split(b",")
    return frozenset(option.strip(b" \t") for option in options)


def origin_form(target: str) -> tuple[str, bytes]:
    """The target as an origin server takes it, without fragment; and the authority of an absolute-form one, else b"".

    The application gets the bytes that came, so a path is never decoded here.
    """
    if target.startswith("/"):
        return (target.partition("#")[0] if "#" in target else target), b""
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        return target, b""
    rest = target[absolute.end() :].partition("#")[0]
    return (rest if rest.startswith("/") else f"/{rest}"), absolute[1].encode("utf-8", "surrogateescape")


@lru_cache(1024)
def valid_host(value: str) -> bool:
    """Whether a Host field holds a host and an optional port (RFC 9110 §7.2) that nobody could misread."""
    return _HOST.fullmatch(value) is not None


def names_host(target: str, host: str | None) -> bool:
    """Whether a target that is no path is `*`, or an absolute one of the very host that the Host field names.

    RFC 9112 §3.2.2 lets the target win; a limit that looks at Host would then be another application's.
    """
    absolute = _ABSOLUTE.match(target)
    if absolute is None or host is None:
        return target == "*"
    return absolute[0].endswith(f"//{absolute[1]}") and absolute[1].lower() == host.lower()


@lru_cache(256)
def status_line(status: int, reason: str) -> bytes:
    """A status line; the reason is kept where it is plain text."""
    if not (reason.isascii() and reason.isprintable()):
        reason = HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else ""
    return f"HTTP/1.1 {status} {reason}\r\n".encode()


class RateLimitFields:
    """Writes the rate-limit fields of a verdict: `RateLimit-Policy`, `RateLimit`, and the X-RateLimit-* trio."""

    def __init__(self, *, standard: bool, legacy: bool) -> None:
        self._standard = standard
        self._legacy = legacy
        # What is the same in every answer under a limit. One entry per limit of the configuration, by identity; the
        # policy and the limit are kept so that their identities stay their own.
        self._fixed: dict[int, tuple[Policy, Limit, _Fixed]] = {}

    def of(self, verdict: Verdict) -> bytes:
        """Whole lines, in order; empty where nothing is known (no policy, or the store failed)."""
        applied = verdict.applied
        if len(applied) == 1 and self._standard and self._legacy:
            policy, charge = applied[0]
            return self._of_one(policy, charge, verdict.levels[0])
        return self.plainly(verdict)

    def _of_one(self, policy: Policy, charge: Charge | None, level: Level | None) -> bytes:
        """`plainly`, for the one policy of most answers: a single template."""
        if level is None or charge is None or policy.shadow:
            return b""
        _, limit, cost, _, _ = charge
        tokens, age_us, enough = level
        fixed = self._fixed_of(policy, limit)
        missing = limit.burst - tokens
        if missing <= 0:
            return fixed.full
        # `limit.wait_us` in whole seconds, both rounded up at once.
        per_token, per_s = fixed.period_us, fixed.tokens_per_period * 1_000_000
        grown = age_us * fixed.tokens_per_period
        more_s = -((grown - (1 if enough else cost - tokens) * per_token) // per_s)
        reset_s = -((grown - missing * per_token) // per_s)
        return fixed.template % (tokens, max(0, more_s), tokens, max(0, reset_s))

    def plainly(self, verdict: Verdict) -> bytes:
        """`of`, for any number of policies."""
        known = [
            (self._fixed_of(policy, charge.limit), charge, level)
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
            b"%b;r=%d" % (fixed.name, level.tokens)
            if level.tokens >= charge.limit.burst
            else b"%b;r=%d;t=%d" % (fixed.name, level.tokens, _more_in_s(charge, level))
            for fixed, charge, level in known
        ]
        policies = [
            self._fixed_of(policy, charge.limit).policy
            for policy, charge in verdict.applied
            if charge is not None and not policy.shadow
        ]
        return b"RateLimit-Policy: %b\r\nRateLimit: %b\r\n" % (b", ".join(policies), b", ".join(items))

    def _fixed_of(self, policy: Policy, limit: Limit) -> "_Fixed":
        known = self._fixed.get(id(limit))
        if known is None or known[0] is not policy:
            known = self._fixed[id(limit)] = (policy, limit, _fixed_for(policy.name.encode(), limit))
        return known[2]


class _Fixed(NamedTuple):
    """`template` takes tokens, seconds until more, tokens, seconds until full; `full` is its like for a full bucket."""

    name: bytes
    policy: bytes
    template: bytes
    full: bytes
    tokens_per_period: int
    period_us: int


def _fixed_for(name: bytes, limit: Limit) -> _Fixed:
    quoted = b'"%b"' % name
    policy = b"%b;q=%d;w=%d" % (quoted, limit.burst, -(-limit.fill_us // 1_000_000))
    head = b"RateLimit-Policy: %b\r\nRateLimit: %b" % (policy, quoted)
    trio = b"X-RateLimit-Limit: %d\r\n" % limit.burst + b"X-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n"
    full = head + b";r=%d\r\n" % limit.burst + trio % (limit.burst, 0)
    rate = limit.rate
    return _Fixed(quoted, policy, head + b";r=%d;t=%d\r\n" + trio, full, rate.tokens, rate.period_us)


_Known = tuple[_Fixed, Charge, Level]


def _more_in_s(charge: Charge, level: Level) -> int:
    """Whole seconds until there is more quota: one token more, or the whole cost that was lacking."""
    wanted = 1 if level.enough else charge.cost - level.tokens
    return -(-charge.limit.wait_us(wanted, level.age_us) // 1_000_000)


def _legacy_lines(known: "Sequence[_Known]") -> bytes:
    # The policy nearest its end: one that refuses before one that does not, then the emptiest.
    _, charge, level = known[0] if len(known) == 1 else min(known, key=_distance_to_end)
    limit = charge.limit
    reset_s = -(-limit.wait_us(limit.burst - level.tokens, level.age_us) // 1_000_000)
    return b"X-RateLimit-Limit: %d\r\nX-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n" % (
        limit.burst,
        level.tokens,
        reset_s,
    )


def _distance_to_end(entry: "_Known") -> tuple[bool, float]:
    _, charge, level = entry
    return level.enough, level.tokens / charge.limit.burst
