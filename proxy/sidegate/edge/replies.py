"""Answers of our own: to failures, to refused requests, and the sidecar's pages.

Every body of a failure or a refusal is problem+json (RFC 9457), short, and made once: nothing of the request is echoed.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus

from sidegate.decision.verdict import Verdict
from sidegate.edge.failures import QUOTA_EXCEEDED, Failure
from sidegate.edge.http_date import date_line
from sidegate.edge.rate_limit_fields import RateLimitFields
from sidegate.edge.rewrite import status_line

# A 503 says when to come back. An outage's end is not known; a second spares the store a stampede and the client a
# wait.
UNAVAILABLE_RETRY_S = 1
# A blocked key is refused for as long as the configuration says so; this keeps polite clients away for an hour.
BLOCKED_RETRY_S = 3600


def failure_reply(failure: Failure, *, head_only: bool, connection: bytes) -> bytes:
    """The answer to a failure. `connection` holds its last lines, or is empty."""
    head, body = failure_parts(failure)
    return joined(head, connection, body, head_only)


class RefusalReplies:
    """429, or another status, for refused requests: which policies refused, and when to come back."""

    def __init__(self, rate_limit_fields: RateLimitFields, status: int = 429) -> None:
        self._rate_limit_fields = rate_limit_fields
        self._status = status

    def of(self, verdict: Verdict, head_only: bool, connection: bytes) -> bytes:
        """The answer. `connection` holds its last lines, or is empty."""
        applied = verdict.applied
        if len(applied) == 1 and (charge := applied[0].charge) is not None and (level := verdict.levels[0]) is not None:
            # `verdict.refusing` and `retry_after_s` for the one policy of most refusals.
            refusing: tuple[str, ...] = (applied[0].policy.name,)
            retry_s = -(-charge.retry_us(level) // 1_000_000) or 1
        else:
            refusing, retry_s = verdict.refusing, retry_after_s(verdict)
        head, body = refusal_parts(refusing, self._status)
        return b"%b%bRetry-After: %d\r\n%b%b\r\n%b" % (
            head,
            self._rate_limit_fields.of(verdict),
            retry_s,
            date_line(),
            connection,
            b"" if head_only else body,
        )


def retry_after_s(verdict: Verdict) -> int:
    """Whole seconds, rounded up, at least 1: never earlier than the tokens really come."""
    wait_us = verdict.retry_us
    return BLOCKED_RETRY_S if wait_us is None else max(1, -(-wait_us // 1_000_000))


def page(status: int, content: Mapping[str, object], *, head_only: bool, connection: bytes) -> bytes:
    """A JSON page of the sidecar's own (health, status): never cached."""
    body = json.dumps(content, separators=(",", ":")).encode() + b"\n"
    return joined(reply_head(status, b"application/json", len(body)), connection, body, head_only)


@lru_cache(64)
def failure_parts(failure: Failure) -> tuple[bytes, bytes]:
    """The first lines and the body of the answer to a failure."""
    status, detail, kind = failure.value
    body = _problem(kind, status, detail, {"error": failure.reason, "message": detail})
    head = reply_head(status, b"application/problem+json", len(body))
    return (head + b"Retry-After: %d\r\n" % UNAVAILABLE_RETRY_S if status == 503 else head), body


@lru_cache(1024)
def refusal_parts(policies: tuple[str, ...], status: int) -> tuple[bytes, bytes]:
    """The first lines and the body of a refusal."""
    message = "Rate limit exceeded. Retry-After says when the next request can pass."
    more = {"error": "rate_limit_exceeded", "message": message, "violated-policies": list(policies)}
    body = _problem(QUOTA_EXCEEDED, status, message, more)
    return reply_head(status, b"application/problem+json", len(body)), body


def _problem(kind: str, status: int, detail: str, more: Mapping[str, object]) -> bytes:
    problem = {"type": kind, "title": _phrase(status), "status": status, "detail": detail, **more}
    return json.dumps(problem, separators=(",", ":")).encode() + b"\n"


def reply_head(status: int, content_type: bytes, length: int) -> bytes:
    """The first lines of an answer."""
    line = status_line(status, _phrase(status))
    return b"%b\r\nContent-Type: %b\r\nContent-Length: %d\r\nCache-Control: no-store\r\n" % (line, content_type, length)


def joined(head: bytes, connection: bytes, body: bytes, head_only: bool) -> bytes:
    """A whole answer of its first lines, its last lines and its body."""
    return b"%b%b%b\r\n%b" % (head, date_line(), connection, b"" if head_only else body)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else "Refused"
