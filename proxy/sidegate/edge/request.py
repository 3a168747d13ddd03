"""A request as the edge knows it: what was parsed, what follows from its head, and how far it has come."""

import time
from collections.abc import Sequence

from sidegate.decision.policy import PolicyMatch, PolicySet
from sidegate.decision.record import Record, recorded
from sidegate.decision.request import RequestFacts
from sidegate.decision.verdict import Verdict
from sidegate.edge.headers import Forwarding
from sidegate.edge.request_id import RequestId
from sidegate.edge.wire import EMPTY_BODY, Body, RequestMessage

CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"


class Request:
    """One request under way on a connection.

    Clients that keep a connection often send the very same head again. The request then begins again (`again`), and
    what follows from the head alone is not worked out a second time: `applied` under the `policies` in force, and
    `forwarded`, the head that goes to the application by `forwarding`. Either is asked for anew where the
    configuration has changed meanwhile. Times are perf_counter's: when it came, and when it was decided.
    """

    __slots__ = (
        "applied",
        "arrived_s",
        "body",
        "decided_s",
        "facts",
        "forwarded",
        "forwarding",
        "message",
        "plain",
        "policies",
        "request_id",
        "verdict",
    )

    def __init__(self, message: RequestMessage, body: Body, peer: str) -> None:
        self.message = message
        self.body = body
        # Nothing need be said of the connection in answers to it.
        self.plain = body is EMPTY_BODY and not message.should_close and message.version.minor == 1
        self.facts = RequestFacts(message.method, message.path, message.headers, peer)
        self.policies: PolicySet | None = None
        self.applied: Sequence[PolicyMatch] = ()
        self.forwarding: Forwarding | None = None
        self.forwarded = b""
        self.request_id: RequestId | None = None  # once it is decided, where the configuration wants one
        self.verdict: Verdict | None = None
        self.decided_s = 0.0
        self.arrived_s = time.perf_counter()

    def again(self) -> None:
        """The same head came once more; it has no body."""
        self.request_id = self.verdict = None
        self.decided_s = 0.0
        self.arrived_s = time.perf_counter()

    def record(self, status: int, error: str = "") -> Record:
        """What is told of it when it ends, which is now."""
        now_s, arrived_s = time.perf_counter(), self.arrived_s
        decision_s = (self.decided_s or now_s) - arrived_s
        request_id = "" if self.request_id is None else self.request_id.value
        return recorded((self.facts, status, self.verdict, error, decision_s, now_s - arrived_s, request_id))

    @property
    def id_line(self) -> bytes:
        """The line of its id, to either side; empty where it has none."""
        return self.request_id.line if self.request_id else b""

    def last_lines(self, *, closing: bool) -> bytes:
        """What every answer to it ends with: its id, and whether the client may send another request behind it."""
        if self.plain and not closing:
            return self.request_id.line if self.request_id is not None else b""
        message, body = self.message, self.body
        if closing or message.should_close or not (body is EMPTY_BODY or body.is_eof()):
            return self.id_line + CLOSE
        if message.version.minor == 0:
            return self.id_line + KEEP_ALIVE
        return self.request_id.line if self.request_id else b""
