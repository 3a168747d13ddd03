"""One request from its head to its record: decides it, answers what is refused or fails, forwards what is admitted.

    DECIDING ──► the verdict ──► refused, or failed ──────────────────────► ENDED
       │              └──► admitted: FORWARDING by an Exchange (edge/exchange) ──► ENDED
       └──► PAGE: one of the sidecar's own ────────────────────────────────────► ENDED

`end` takes effect once for each request: it makes the record, and the connection goes on to the next request.
"""

import logging
import time
from enum import Enum
from typing import Protocol

from sidegate.decision.record import Record
from sidegate.decision.request import BadRequest, RequestFacts, path_part
from sidegate.decision.verdict import Answer, Verdict
from sidegate.edge.exchange import ClientSide, Exchange, admitted
from sidegate.edge.failures import KEEPS_CONNECTION, Failure
from sidegate.edge.heads import NO_BODY, PLAIN_TRAITS, RequestHead
from sidegate.edge.max_forwards import hops_left, last_hop_answer
from sidegate.edge.replies import failure_reply, page
from sidegate.edge.request_id import RequestId
from sidegate.edge.runtime import OwnPage, Runtime
from sidegate.edge.upload import Upload

CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"
CLIENT_LEFT = 499  # nginx's number for a request whose client did not wait; never sent

_REFUSE = Answer.REFUSE

logger = logging.getLogger(__name__)


class Requester(ClientSide, Protocol):
    """The connection that a request came on."""

    runtime: Runtime
    peer: str

    def request_ended(self, *, keep: bool) -> None:
        """The answer is complete; the connection may be used again if `keep` and the request allow it."""


class RequestStage(Enum):
    """See the module's text."""

    DECIDING = "deciding"
    PAGE = "a page is made"
    FORWARDING = "forwarding"
    ENDED = "ended"


_DECIDING, _PAGE, _FORWARDING, _ENDED = RequestStage


class PendingRequest:
    """See the module's text. Times are those of `time.perf_counter`: of the head, and of the verdict."""

    __slots__ = (
        *("_client", "_decided_s", "arrived_s", "exchange", "facts", "head", "live", "request_id", "stage"),
        *("upload", "verdict"),
    )

    def __init__(self, client: Requester, head: RequestHead) -> None:
        self.arrived_s = time.perf_counter()
        self._client = client
        self.head = head
        self.live = live = client.runtime.live
        self.facts = RequestFacts(head.method, head.target, head, client.peer)
        self.stage = _DECIDING
        self.verdict: Verdict | None = None
        self._decided_s = 0.0
        self.request_id: RequestId | None = None
        self.exchange: Exchange | None = None
        self.upload: Upload | None = None
        if head.framing is not NO_BODY and head.framing != 0:
            self.upload = Upload(self, live.listen, chunked=not isinstance(head.framing, int))

    # Deciding

    def start(self) -> None:
        """Decide the request, or make the page it asks for."""
        head, runtime = self.head, self._client.runtime
        if self.upload is not None and self._body_failure(self.upload):
            return
        if head.target.startswith(runtime.page_starts) or not head.target.startswith("/"):
            own_page = runtime.pages.get(path_part(head.target))
            if own_page is not None and head.method in ("GET", "HEAD"):
                self.stage = _PAGE
                _ = runtime.spawn(self._show(own_page))
                return
        try:
            applied = self.live.policies.applying(self.facts)
        except BadRequest:
            self.fail(Failure.BAD_REQUEST)
            return
        runtime.decide(applied, self.on_verdict)

    def _body_failure(self, upload: Upload) -> bool:
        """Whether the request has failed already for its body: nothing of it is decided, or read, then."""
        most, length = self.live.listen.max_body_bytes, self.head.framing
        if upload.broken:
            self.fail(Failure.BAD_REQUEST)
        elif most is not None and isinstance(length, int) and length > most:
            self.fail(Failure.BODY_TOO_LARGE)
        else:
            return False
        return True

    def on_verdict(self, verdict: Verdict) -> None:
        """The request is decided; see decision.verdict.Decide."""
        if self.stage is not _DECIDING:
            return  # it has failed meanwhile, or its client has left
        self.verdict, self._decided_s = verdict, time.perf_counter()
        client = self._client
        ids = client.runtime.request_ids
        if ids is not None:
            self.request_id = ids.of(self.head)
        try:
            self._follow(verdict)
        except Exception:  # the boundary of one request: nothing may leave a client waiting
            logger.exception("a request failed after its decision")
            self.fail_internally()

    def _follow(self, verdict: Verdict) -> None:
        client = self._client
        if client.gone:
            self.end(CLIENT_LEFT)
        elif self.upload is not None and self.upload.broken:
            self.fail(Failure.BAD_REQUEST)
        elif (allowed := admitted(verdict)) is not None:
            if hops_left(self.head) == 0:
                self._answer_here(verdict)
                return
            self.stage = _FORWARDING
            exchange = self.exchange = Exchange(client.runtime, client, self, allowed)
            exchange.forward()
        elif verdict.answer is _REFUSE:
            head_only, connection = self.head.method == "HEAD", self.last_lines(keep=True)
            client.write(self.live.refusals.of(verdict, head_only=head_only, connection=connection))
            self.end(429)
        else:
            self.fail(Failure.STORE_UNAVAILABLE)

    def _answer_here(self, verdict: Verdict) -> None:
        """Answer a TRACE or OPTIONS that may pass no more intermediaries, in the application's place."""
        fields = self.live.rate_limit_fields.of(verdict) if verdict.applied else b""
        self._client.write(last_hop_answer(self.head, fields, self.last_lines(keep=True)))
        self.end(200)

    async def _show(self, own_page: OwnPage) -> None:
        try:
            status, content = await own_page(self.facts)
        except BadRequest:
            self.fail(Failure.BAD_REQUEST)
        except Exception:  # the boundary of one request
            logger.exception("a page could not be made")
            self.fail(Failure.INTERNAL)
        else:
            if self.stage is _PAGE:
                connection = self.last_lines(keep=True)
                self._client.write(page(status, content, head_only=self.head.method == "HEAD", connection=connection))
                self.stage = _ENDED
                self._client.request_ended(keep=True)

    # What its connection reports

    def body_received(self, data: bytes, *, ended: bool) -> None:
        """More of the request's body has come."""
        if self.upload is not None:
            self.upload.received(data, ended=ended)

    def body_broken(self) -> None:
        """The client broke the framing of the body."""
        if self.upload is not None:
            self.upload.broken = True
        if self.exchange is not None:
            self.exchange.give_up(Failure.BAD_REQUEST)

    def client_left(self) -> None:
        """The client's connection is lost."""
        if self.exchange is not None:
            self.exchange.stop()
        if self.stage is not _PAGE:
            self.end(CLIENT_LEFT)
        self.stage = _ENDED

    def client_stalled(self) -> None:
        """The client does not read the answer."""
        if self.exchange is not None:
            self.exchange.give_up(Failure.WRITE_TIMEOUT)

    def fail_internally(self) -> None:
        """Handling the request raised; it is logged already."""
        if self.exchange is not None:
            self.exchange.give_up(Failure.INTERNAL)
        else:
            self.fail(Failure.INTERNAL)

    def pause_reading(self) -> None:
        """See upload.Uploader."""
        self._client.pause_reading()

    def resume_reading(self) -> None:
        """See upload.Uploader."""
        self._client.resume_reading()

    def upload_failed(self, failure: Failure) -> None:
        """See upload.Uploader."""
        if self.exchange is not None:
            self.exchange.give_up(failure)

    def upload_ended(self) -> None:
        """See upload.Uploader."""
        if self.exchange is not None:
            self.exchange.upload_ended()

    # The end

    def fail(self, failure: Failure) -> None:
        """Answer a request that is not forwarded."""
        if self.stage is _ENDED:
            return
        keep = failure in KEEPS_CONNECTION
        connection = self.last_lines(keep=keep)
        self._client.write(failure_reply(failure, head_only=self.head.method == "HEAD", connection=connection))
        self.end(failure.status, failure.reason, keep=keep)

    def end(self, status: int, error: str = "", *, keep: bool = True) -> None:
        """Record the request, and let its connection go on; `keep` as in Requester.request_ended."""
        if self.stage is _ENDED:
            return
        self.stage = _ENDED
        client, now_s, arrived_s = self._client, time.perf_counter(), self.arrived_s
        decision_s = (self._decided_s or now_s) - arrived_s
        request_id = "" if self.request_id is None else self.request_id.value
        client.runtime.observe(
            Record(self.facts, status, self.verdict, error, decision_s, now_s - arrived_s, request_id)
        )
        client.request_ended(keep=keep)

    @property
    def peer(self) -> str:
        """The address of the client's connection."""
        return self.facts.peer

    @property
    def id_line(self) -> bytes:
        """The line of its id, to either side; empty where it has none."""
        return self.request_id.line if self.request_id is not None else b""

    @property
    def body_is_read(self) -> bool:
        """Whether nothing more of the request can come."""
        return self.upload is None or self.upload.ended

    def last_lines(self, *, keep: bool) -> bytes:
        """The last lines of its answer: its id, and whether the client may send another request on the connection."""
        line, traits = self.id_line, self.head.traits
        if self._client.closing or not keep or not self.body_is_read:
            return line + CLOSE
        if traits is PLAIN_TRAITS:
            return line
        if not traits.persistent:
            return line + CLOSE
        return line + KEEP_ALIVE if traits.minor == 0 else line
