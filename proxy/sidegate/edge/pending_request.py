"""One request from its head to its record: decides it, answers what is refused or fails, forwards what is admitted.

    DECIDING ──► WAITING for tokens that it has booked ──► admitted
    DECIDING ──► the verdict ──► refused, or failed ──────────────────────► ENDED
       │              └──► admitted: FORWARDING by an Exchange (edge/exchange) ──► ENDED
       └──► PAGE: one of the sidecar's own (edge/own_page) ────────────────────► ENDED

`end` takes effect once for each request: it makes the record, and the connection goes on to the next request.
"""

import logging
import time
from enum import Enum

from sidegate.decision.bad_request import BadRequest
from sidegate.decision.record import Record, recorded
from sidegate.decision.request import RequestFacts
from sidegate.decision.settling import Admission
from sidegate.decision.verdict import Answer, Verdict
from sidegate.edge.buffers import RequestShare
from sidegate.edge.exchange import Exchange
from sidegate.edge.exchange_ports import Admitted, ClientSide, is_admitted
from sidegate.edge.failures import KEEPS_CONNECTION, Failure
from sidegate.edge.heads import NO_BODY, PLAIN_TRAITS, BodyLength, RequestHead, no_fields
from sidegate.edge.max_forwards import hops_left, last_hop_answer
from sidegate.edge.own_page import page_for, show
from sidegate.edge.replies import failure_reply
from sidegate.edge.request_id import RequestId
from sidegate.edge.runtime import LiveRules, Runtime
from sidegate.edge.token_wait import TokenWait
from sidegate.edge.upload import Upload, UploadState
from sidegate.edge.upstream import UpstreamConnection

CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"
SWITCHED = 101
CLIENT_LEFT = 499  # nginx's number for a request whose client did not wait; never sent

_REFUSE = Answer.REFUSE

logger = logging.getLogger(__name__)


def answer_no_request(client: ClientSide, failure: Failure) -> None:
    """Answer, and record, what is not known to be a request."""
    client.socket.write(failure_reply(failure, head_only=False, connection=CLOSE))
    record_no_request(client.runtime, client.socket.peer, failure)


def record_no_request(runtime: Runtime, peer: str, failure: Failure) -> None:
    """Record what is not known to be a request."""
    facts = RequestFacts("", "", no_fields, peer)
    runtime.observe(Record(facts, failure.status, None, failure.reason, 0.0, 0.0))


class RequestStage(Enum):
    """See the module's text."""

    DECIDING = "deciding"
    WAITING = "waits for its tokens"
    PAGE = "a page is made"
    FORWARDING = "forwarding"
    ENDED = "ended"


_DECIDING, _WAITING, _PAGE, _FORWARDING, _ENDED = RequestStage


class PendingRequest:
    """See the module's text. Times are those of `time.perf_counter`: of the head, and of the verdict."""

    # What stands in the class is what most requests never change: it costs them nothing.
    stage = _DECIDING
    verdict: Verdict | None = None
    request_id: RequestId | None = None
    exchange: Exchange | None = None
    upload: Upload | None = None
    wait: TokenWait | None = None
    _decided_s = 0.0

    def __init__(self, client: ClientSide, head: RequestHead) -> None:
        self.arrived_s = time.perf_counter()
        self._client = client
        self.head = head
        self.live, socket = client.runtime.live, client.socket
        self.facts = RequestFacts(head.method, head.target, head, socket.peer, socket.client_cert)
        if head.framing is not NO_BODY and head.framing != 0:
            self.upload = _upload_of(head.framing, client, self.live)

    def start(self) -> None:
        """Decide the request, or make the page it asks for."""
        if self.upload is not None and (failure := _body_failure(self.head, self.upload)) is not None:
            self.fail(failure)
            return
        head, runtime = self.head, self._client.runtime
        if (head.target.startswith(runtime.page_starts) or head.target[0] != "/") and (own := page_for(head, runtime)):
            self.stage = _PAGE
            _ = runtime.spawn(show(self, own, self._client))
            return
        try:
            applied = self.live.policies.applying(self.facts)
        except BadRequest:
            self.fail(Failure.BAD_REQUEST)
            return
        if self.live.policies.may_wait:
            applied, self.wait = runtime.waiting.enter(applied, self.live.listen.max_waiting)
        runtime.decide(applied, self.on_verdict)

    def on_verdict(self, verdict: Verdict) -> None:
        """The request is decided; see decision.verdict.Decide."""
        if self.stage is not _DECIDING:  # it has failed meanwhile, or its client has left
            if verdict.admission is not None:
                verdict.admission.cancel()
            return
        self.verdict = verdict
        if (ids := self._client.runtime.request_ids) is not None:
            self.request_id = ids.of(self.head)
        if self.wait is not None and is_admitted(verdict) and (wait_us := verdict.wait_us):
            self.stage = _WAITING
            if self.upload is not None and not self.upload.ended:
                self._client.socket.pause_reading()
            self.wait.begin(wait_us, self._carry_out)
        else:
            self._carry_out()

    def _carry_out(self) -> None:
        """Do what the verdict says; what it was waited for counts as its decision."""
        verdict, self._decided_s = self.verdict, time.perf_counter()
        assert verdict is not None  # noqa: S101  (it has just been set, or waited for)
        if self.wait is not None:
            self.wait.end()
        try:
            if self.upload is not None and self.upload.broken:
                self.fail(Failure.BAD_REQUEST)
            elif is_admitted(verdict):
                self._admit(verdict)
            elif verdict.answer is _REFUSE:
                self._client.socket.write(_refusal_answer(self, verdict, self.last_lines(True)))
                self.end(self.live.refusal_status)
            else:
                self.fail(Failure.STORE_UNAVAILABLE)
        except Exception:  # the boundary of one request: nothing may leave a client waiting
            logger.exception("a request failed after its decision")
            self.fail_internally()

    def _admit(self, verdict: Admitted) -> None:
        client = self._client
        if client.socket.transport.is_closing():
            self.end(CLIENT_LEFT)
        elif "max-forwards" in self.head.special and hops_left(self.head) == 0:
            fields = self.live.rate_limit_fields.of(verdict) if verdict.applied else b""
            client.socket.write(last_hop_answer(self.head, fields, self.last_lines(True) + self.live.via))
            self.end(200)
        else:
            self.stage = _FORWARDING
            exchange = self.exchange = Exchange(client, self, verdict)
            exchange.forward()

    # What its connection reports

    def body_broken(self) -> None:
        """The client broke the framing of the body."""
        if self.exchange is not None:
            self.exchange.give_up(Failure.BAD_REQUEST)
        elif self.upload is not None:
            self.upload.stop(UploadState.BROKEN)

    def drain(self, within_s: float) -> None:
        """Refuse it now if it waits for longer than the sidecar goes on."""
        if (
            self.stage is _WAITING
            and self.wait is not None
            and self.wait.left_s > within_s
            and self.verdict is not None
        ):
            self._client.socket.write(_refusal_answer(self, self.verdict, self.last_lines(False)))
            self.end(self.live.refusal_status)

    def client_left(self) -> None:
        """The client's connection is lost."""
        if self.exchange is not None:
            self.exchange.stop()
        self.end(CLIENT_LEFT)

    @property
    def answering(self) -> UpstreamConnection | None:
        """The connection that the answer comes from."""
        return self.exchange.connection if self.exchange is not None else None

    def client_stalled(self) -> None:
        """The client has not taken the answer in time."""
        if self.exchange is not None:
            self.exchange.give_up(Failure.WRITE_TIMEOUT)

    def fail_internally(self) -> None:
        """Handling the request raised; it is logged already."""
        if self.exchange is not None:
            self.exchange.give_up(Failure.INTERNAL)
        else:
            self.fail(Failure.INTERNAL)

    # The end

    def fail(self, failure: Failure) -> None:
        """Answer a request that is not forwarded."""
        if self.stage is not _ENDED:
            keep = failure in KEEPS_CONNECTION
            self._client.socket.write(_failure_answer(self, failure, self.last_lines(keep)))
            self.end(failure.status, failure.reason, keep)

    def end(self, status: int, error: str = "", keep: bool = True) -> None:
        """Record the request, and let its connection go on; `keep` as in ClientSide.request_ended.

        A page of the sidecar's own leaves a record only where making it failed.
        """
        stage, self.stage = self.stage, _ENDED
        if stage is _ENDED:
            return
        if self.verdict is not None and (admission := self.verdict.admission) is not None:
            _end_admission(admission, status, forwarded=stage is _FORWARDING)
        # They refer back to this object: without the cycle, all is freed at once and not by the garbage collector.
        if self.upload is not None:
            self.upload.share.release()
        self.exchange = self.upload = None
        client = self._client
        if self.wait is not None:
            self.wait.end()
        if stage is not _PAGE or error:
            now_s, arrived_s, request_id = time.perf_counter(), self.arrived_s, self.request_id
            decision_s = (self._decided_s or now_s) - arrived_s
            name = "" if request_id is None else request_id.value
            client.runtime.observe(
                recorded((self.facts, status, self.verdict, error, decision_s, now_s - arrived_s, name))
            )
        client.request_ended(keep)

    @property
    def id_line(self) -> bytes:
        """The line of its id, to either side; empty where it has none."""
        return self.request_id.line if self.request_id is not None else b""

    def last_lines(self, keep: bool) -> bytes:
        """The last lines of its answer: its id, and whether the client may send another request on the connection."""
        traits, upload = self.head.traits, self.upload
        line = b"" if self.request_id is None else self.request_id.line
        if self._client.closing or not keep or not traits.persistent or (upload is not None and not upload.ended):
            return line + CLOSE
        return line + KEEP_ALIVE if traits is not PLAIN_TRAITS and not traits.minor else line


def _upload_of(framing: BodyLength, client: ClientSide, live: LiveRules) -> Upload:
    share = RequestShare(client.runtime.buffers, live.upstream.request_buffer)
    return Upload(client.socket, live.listen, share, chunked=not isinstance(framing, int))


def _id_of(request: PendingRequest) -> str:
    return "" if request.request_id is None else request.request_id.value


def _refusal_answer(request: PendingRequest, verdict: Verdict, last_lines: bytes) -> bytes:
    head, live = request.head, request.live
    if live.tailored is None:
        return live.refusals.of(verdict, head.method == "HEAD", last_lines)
    return live.tailored.refusal(verdict, head, _id_of(request), last_lines)


def _failure_answer(request: PendingRequest, failure: Failure, last_lines: bytes) -> bytes:
    head, tailored = request.head, request.live.tailored
    if tailored is None:
        return failure_reply(failure, head_only=head.method == "HEAD", connection=last_lines)
    return tailored.failure(failure, head, _id_of(request), last_lines)


def _end_admission(admission: Admission, status: int, *, forwarded: bool) -> None:
    """End what the request holds in the store, once it has ended; a WebSocket ends later."""
    if not forwarded:
        admission.cancel()
    elif status != SWITCHED:
        admission.leave()


def _body_failure(head: RequestHead, upload: Upload) -> Failure | None:
    """Why the request has failed already for its body: nothing of it is decided, or read, then."""
    if upload.broken:
        return Failure.BAD_REQUEST
    return Failure.BODY_TOO_LARGE if isinstance(head.framing, int) and upload.exceeds(head.framing) else None
