"""Answers of our own: the one table from failure to answer, and the two that a verdict can need.

Every body is problem+json (RFC 9457), short, and made beforehand: nothing of the request is echoed.
"""

import json
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from sidegate.decision.bucket import Level
from sidegate.decision.verdict import Verdict
from sidegate.edge.headers import RateLimitFields, status_line

_TYPES = "https://iana.org/assignments/http-problem-types"
QUOTA_EXCEEDED = f"{_TYPES}#quota-exceeded"
REDUCED_CAPACITY = f"{_TYPES}#temporary-reduced-capacity"

# A 503 says when to come back. An outage's end is not known; a second spares the store a stampede and the client a
# wait.
UNAVAILABLE_RETRY_S = 1
# Buckets whose last refusal is kept, as bytes.
MOST_MADE = 4096
# A blocked key is refused for as long as the configuration says so; this keeps polite clients away for an hour.
BLOCKED_RETRY_S = 3600


class Cause(NamedTuple):
    """A status, and what the client is told."""

    status: int
    detail: str
    type: str = "about:blank"


class Fault(Enum):
    """What can go wrong with a request, in the order in which it would be met. The value's name is the log's reason."""

    TOO_MANY_CONNECTIONS = Cause(503, "This proxy serves as many connections as it may.")
    HEAD_TIMEOUT = Cause(408, "The request did not arrive in time.")
    BAD_REQUEST = Cause(400, "The request is not valid HTTP/1.1, or can be read in more than one way.")
    HEAD_TOO_LARGE = Cause(431, "The request line or the header fields are too large.")
    VERSION = Cause(505, "This proxy speaks HTTP/1.1 and HTTP/1.0.")
    EXPECTATION = Cause(417, "The only expectation that can be met is 100-continue.")
    BODY_TOO_LARGE = Cause(413, "The request body is larger than this proxy accepts.")
    CONNECT = Cause(501, "This proxy makes no tunnels.")
    STORE_UNAVAILABLE = Cause(503, "The rate limit cannot be checked at the moment.", REDUCED_CAPACITY)
    UPSTREAM_QUEUE_FULL = Cause(503, "The application is busy: too many requests wait for a connection to it.")
    UPSTREAM_BUSY = Cause(503, "The application is busy: no connection to it became free in time.")
    UPSTREAM_CONNECT = Cause(502, "The application does not accept connections.")
    UPSTREAM_CONNECT_TIMEOUT = Cause(504, "The application did not accept a connection in time.")
    UPSTREAM_BROKEN = Cause(502, "The application broke off, or its answer was not valid HTTP.")
    UPSTREAM_TIMEOUT = Cause(504, "The application did not answer in time.")
    UPSTREAM_STALLED = Cause(504, "The application stopped in the middle of the request or of its answer.")
    TOTAL_TIMEOUT = Cause(504, "The answer took longer than this proxy waits for a whole one.")
    BODY_TIMEOUT = Cause(408, "The request body did not arrive in time, or too slowly.")
    # For the log only: the answer has begun, and its client does not take it.
    WRITE_TIMEOUT = Cause(408, "The client did not take the answer in time.")
    INTERNAL = Cause(500, "This proxy failed to handle the request.")

    @property
    def reason(self) -> str:
        """The fault's word in logs, metrics and the answer's `error` member."""
        return self.name.lower()

    @property
    def status(self) -> int:
        """The answer's status."""
        return self.value.status


# A fault whose connection has lost its framing, or should not stay, is closed after the answer.
KEEPS_CONNECTION = frozenset(
    {
        Fault.STORE_UNAVAILABLE,
        Fault.UPSTREAM_QUEUE_FULL,
        Fault.UPSTREAM_BUSY,
        Fault.UPSTREAM_CONNECT,
        Fault.UPSTREAM_CONNECT_TIMEOUT,
        Fault.UPSTREAM_BROKEN,
        Fault.UPSTREAM_TIMEOUT,
        Fault.UPSTREAM_STALLED,
        Fault.TOTAL_TIMEOUT,
    }
)


def fault_reply(fault: Fault, *, head_only: bool, connection: bytes) -> bytes:
    """The answer to a fault. `connection` is the Connection line, or empty."""
    head, body = _fault_parts(fault)
    return _joined(head, connection, body, head_only)


class RefusalReplies:
    """429 for refused requests: which policies refused, and when to come back.

    The deny cache answers a flood with one level for some milliseconds; the answer is then made once as well.
    """

    def __init__(self, rate_limit_fields: RateLimitFields) -> None:
        self._rate_limit_fields = rate_limit_fields
        self._made: dict[str, tuple[Level, bytes]] = {}

    def of(self, verdict: Verdict, *, head_only: bool, connection: bytes) -> bytes:
        """The answer. `connection` is its last lines."""
        applied = verdict.applied
        if len(applied) != 1 or head_only or connection:
            return self._make(verdict, head_only=head_only, connection=connection)
        charge, level = applied[0].charge, verdict.levels[0]
        if charge is None or level is None:
            return self._make(verdict)
        made = self._made.get(charge.key)
        if made is not None and made[0] is level:
            return made[1]
        if made is None and len(self._made) >= MOST_MADE:
            self._made.clear()
        answer = self._make(verdict)
        self._made[charge.key] = level, answer
        return answer

    def _make(self, verdict: Verdict, *, head_only: bool = False, connection: bytes = b"") -> bytes:
        head, body = _refusal_parts(verdict.refusing)
        fields, ending = self._rate_limit_fields.of(verdict), b"" if head_only else body
        return b"%b%bRetry-After: %d\r\n%b\r\n%b" % (head, fields, retry_after_s(verdict), connection, ending)


def retry_after_s(verdict: Verdict) -> int:
    """Whole seconds, rounded up, at least 1: never earlier than the tokens really come."""
    wait_us = verdict.retry_us
    return BLOCKED_RETRY_S if wait_us is None else max(1, -(-wait_us // 1_000_000))


def page(status: int, content: Mapping[str, object], *, head_only: bool, connection: bytes) -> bytes:
    """A JSON page of the sidecar's own (health, status): never cached."""
    body = json.dumps(content, separators=(",", ":")).encode() + b"\n"
    return _joined(_head(status, b"application/json", len(body)), connection, body, head_only)


@lru_cache(64)
def _fault_parts(fault: Fault) -> tuple[bytes, bytes]:
    status, detail, kind = fault.value
    body = _problem(kind, status, detail, {"error": fault.reason, "message": detail})
    head = _head(status, b"application/problem+json", len(body))
    return (head + b"Retry-After: %d\r\n" % UNAVAILABLE_RETRY_S if status == 503 else head), body


@lru_cache(1024)
def _refusal_parts(policies: tuple[str, ...]) -> tuple[bytes, bytes]:
    message = "Rate limit exceeded. Retry-After says when the next request can pass."
    more = {"error": "rate_limit_exceeded", "message": message, "violated-policies": list(policies)}
    body = _problem(QUOTA_EXCEEDED, 429, message, more)
    return _head(429, b"application/problem+json", len(body)), body


def _problem(kind: str, status: int, detail: str, more: Mapping[str, object]) -> bytes:
    problem = {"type": kind, "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    return json.dumps(problem, separators=(",", ":")).encode() + b"\n"


def _head(status: int, content_type: bytes, length: int) -> bytes:
    line = status_line(status, HTTPStatus(status).phrase)
    return b"%bContent-Type: %b\r\nContent-Length: %d\r\nCache-Control: no-store\r\n" % (line, content_type, length)


def _joined(head: bytes, connection: bytes, body: bytes, head_only: bool) -> bytes:
    return b"%b%b\r\n%b" % (head, connection, b"" if head_only else body)
