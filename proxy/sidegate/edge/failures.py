"""The table of request failures: status, reason code and text of each answer."""

from enum import Enum
from typing import NamedTuple

_TYPES = "https://iana.org/assignments/http-problem-types"
QUOTA_EXCEEDED = f"{_TYPES}#quota-exceeded"
REDUCED_CAPACITY = f"{_TYPES}#temporary-reduced-capacity"


class Cause(NamedTuple):
    """The answer's status, its text, and its problem type (RFC 9457)."""

    status: int
    detail: str
    type: str = "about:blank"


class Failure(Enum):
    """Each failure in the order in which a request can meet it. The name in lower case is the log's reason code."""

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
    # For the log only: the answer has begun, and the client does not read it.
    WRITE_TIMEOUT = Cause(408, "The client did not take the answer in time.")
    INTERNAL = Cause(500, "This proxy failed to handle the request.")

    @property
    def reason(self) -> str:
        """The reason code in logs, metrics and the answer's `error` member."""
        return self.name.lower()

    @property
    def status(self) -> int:
        """The answer's status."""
        return self.value.status


# The client's connection stays open after these: its framing is intact, and the client did nothing wrong.
KEEPS_CONNECTION = frozenset(
    {
        Failure.STORE_UNAVAILABLE,
        Failure.UPSTREAM_QUEUE_FULL,
        Failure.UPSTREAM_BUSY,
        Failure.UPSTREAM_CONNECT,
        Failure.UPSTREAM_CONNECT_TIMEOUT,
        Failure.UPSTREAM_BROKEN,
        Failure.UPSTREAM_TIMEOUT,
        Failure.UPSTREAM_STALLED,
        Failure.TOTAL_TIMEOUT,
    }
)


class BadRequestHead(Exception):
    """Bytes that are no valid request; `failure` is the answer."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class BadMessage(Exception):
    """Bytes of a body or of an answer that violate HTTP's framing. The text gives the reason."""
