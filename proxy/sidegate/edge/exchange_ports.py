"""The interfaces of an exchange: its client, its request, and the verdict that permits it."""

from typing import NewType, Protocol, TypeGuard

from sidegate.decision.settling import Admission
from sidegate.decision.verdict import Answer, Verdict
from sidegate.edge.client_socket import ClientSocket
from sidegate.edge.failures import Failure
from sidegate.edge.heads import RequestHead
from sidegate.edge.runtime import LiveRules, Runtime
from sidegate.edge.upload import Upload
from sidegate.edge.upstream import UpstreamConnection

# A verdict that lets its request pass. Only `is_admitted` creates one, so that no other request can be forwarded.
Admitted = NewType("Admitted", Verdict)

_PASS = Answer.PASS


def is_admitted(verdict: Verdict) -> TypeGuard[Admitted]:
    """Whether the verdict is a permission to forward."""
    return verdict.answer is _PASS


class ClientSide(Protocol):
    """The client's connection."""

    runtime: Runtime
    socket: ClientSocket
    closing: bool  # whether the connection ends after the present answer, whatever the client wants

    def break_off(self) -> None:
        """End the connection so that an incomplete answer cannot look complete."""

    def open_tunnel(self, head: bytes, connection: UpstreamConnection, admission: Admission | None) -> None:
        """Send an answer's head that switches protocols, and join the connections; their end ends the admission."""

    def request_ended(self, keep: bool) -> None:
        """The answer is complete; the connection may be used again if `keep` and the request allow it."""


class ForwardedRequest(Protocol):
    """The request of an exchange."""

    head: RequestHead
    live: LiveRules
    upload: Upload | None

    @property
    def id_line(self) -> bytes:
        """The line of its id, or nothing."""

    def last_lines(self, keep: bool) -> bytes:
        """The last lines of its answer; `keep`: the connection can stay."""

    def fail(self, failure: Failure) -> None:
        """Answer with the failure; the application's answer has not begun."""

    def end(self, status: int, error: str = "", keep: bool = True) -> None:
        """Record it; takes effect once."""
