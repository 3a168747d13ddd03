"""One connection to the application: sends a request, and passes its answer on as it is read.

A thin shell: the socket, one deadline, one state. edge/response_reader parses the bytes.

    IDLE ── send ──► WAITING ── the final head ──► ANSWERING ── its last byte ──► FINISHED ── idle ──► IDLE
                        └── a whole answer ──────────────────────────────────────────┘
    any ── abort, or the connection is lost ──► CLOSED

An idle connection that receives anything, be it bytes or the end, is dead: a stray byte could be taken for the
beginning of somebody else's answer. Where writing fails, the answer may have come all the same (RFC 9112 §9.5): what
the kernel holds of it is read before the connection is given up.
"""

import asyncio
import logging
import select
import ssl
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from sidegate.edge.answer_clock import AnswerClock
from sidegate.edge.failures import BadMessage, Failure
from sidegate.edge.heads import ResponseHead
from sidegate.edge.kernel_buffer import read_arrived
from sidegate.edge.response_reader import ResponseReader, ResponseState
from sidegate.edge.upstream_errors import BrokenReply, UpstreamError

# Interim answers (1xx) of one request: more are an attack or a loop. Only the first ones give the application more
# time, so that a stream of them cannot hold a request for good.
MOST_INTERIM = 64
MOST_EXTENSIONS = 8
# Longer than anything is waited for.
ANY_TIME_S = 1e6

logger = logging.getLogger(__name__)


class ResponseHandler(Protocol):
    """The user of the connection: one request."""

    def on_interim(self, head: ResponseHead) -> None:
        """An interim answer (1xx) has come."""

    def on_answer(self, head: ResponseHead, content: bytes, ended: bool) -> None:
        """The final answer's head has come, with as much of its body."""

    def on_answer_data(self, content: bytes, *, ended: bool) -> None:
        """More of the answer's body has come."""

    def on_upstream_error(self, error: UpstreamError) -> None:
        """There will be no answer, or no more of it. After a time-out the connection is still to be ended."""

    def give_up(self, failure: Failure) -> None:
        """Handling the answer raised; it is logged already."""


class PausableUpload(Protocol):
    """A body that is being sent on the connection."""

    def pause(self) -> None:
        """The application takes no more for now."""

    def resume(self) -> None:
        """The application takes more."""


class UpstreamState(Enum):
    """See the module's text."""

    IDLE = "in the pool, or new"
    WAITING = "a request is sent, its answer's head has not come"
    ANSWERING = "the answer's body is coming"
    FINISHED = "the answer has ended"
    CLOSED = "given up or lost"


_IDLE, _WAITING, _ANSWERING, _FINISHED, _CLOSED = UpstreamState
_ENDED = ResponseState.ENDED


class UpstreamConnection(asyncio.Protocol):
    """See the module's text. `reused`: it has answered before. `upload`: the request's body that is being sent.

    `tls`: the context by which it was made.
    """

    transport: asyncio.Transport
    upload: PausableUpload | None
    _user: ResponseHandler | None
    tls: ssl.SSLContext | None = None
    reused = False
    _interim = 0

    def __init__(
        self, reader: ResponseReader, loop: asyncio.AbstractEventLoop, on_dead: "Callable[[UpstreamConnection], None]"
    ) -> None:
        self.reader = reader
        self.state = _IDLE
        self.upload = self._user = None
        self._clock = AnswerClock(loop, self._timed_out)
        self._on_dead = on_dead
        self._poll = select.poll()

    def connection_made(self, transport: Any) -> None:  # uvloop's is no subclass of asyncio's
        self.transport = transport
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLHUP)

    # The request out

    def send(self, user: ResponseHandler, data: bytes, head_only: bool, timeout_s: float, between_s: float) -> None:
        """Send a request. `user` gets its answer, or an error after `timeout_s` without the answer's whole head, or
        `between_s` without more of its body. A timeout of 0: the body is still being sent (see `expect_answer`).
        """
        self._user = user
        self._interim = 0
        self.state = _WAITING
        self.reader.expect(head_only)
        self._clock.begin(timeout_s, between_s)
        self.transport.write(data)

    def expect_answer(self, timeout_s: float) -> None:
        """The request's body is sent: from now on, `timeout_s` without the answer's head is a failure."""
        self.upload = None
        if self.state is _WAITING:
            self._clock.expect_head(timeout_s)

    def write(self, data: bytes) -> None:
        """Send more of the request's body; does nothing if the connection is lost, which is reported separately."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def pause_writing(self) -> None:
        if self.upload is not None:
            self.upload.pause()
            if self.state is _WAITING:
                self._clock.expect_more()

    def resume_writing(self) -> None:
        if self.upload is not None:
            if self.state is _WAITING:
                self._clock.suspend()
            self.upload.resume()

    # The answer in

    def data_received(self, data: bytes) -> None:
        user, reader = self._user, self.reader
        if user is None:  # unsolicited
            self.abort()
            return
        try:
            if self.state is _WAITING:
                head = reader.read_head(data)
                if head is not None and head.status < 200:
                    head = self._after_interim(user, head)
                if head is not None:
                    ended = reader.state is _ENDED
                    self.state = _FINISHED if ended else _ANSWERING
                    if not ended:
                        self._clock.expect_more()
                    user.on_answer(head, reader.content, ended)
            elif self.state is _ANSWERING:
                content = reader.read_body(data)
                if reader.state is _ENDED:
                    self.state = _FINISHED
                else:
                    self._clock.expect_more()
                user.on_answer_data(content, ended=reader.state is _ENDED)
            else:
                reader.hold(data)
        except BadMessage as error:
            self._broke(BrokenReply(str(error)))
        except Exception:  # the boundary of one request: nothing may leave its client waiting
            logger.exception("an answer could not be passed on")
            self.abort()
            user.give_up(Failure.INTERNAL)

    def _after_interim(self, user: ResponseHandler, first: ResponseHead) -> ResponseHead | None:
        """Pass on interim answers; returns the final head where it has come with them."""
        head: ResponseHead | None = first
        while head is not None and head.status < 200:
            self._interim += 1
            if self._interim > MOST_INTERIM:
                raise BadMessage("more interim answers than anybody needs")
            if self._interim <= MOST_EXTENSIONS:
                self._clock.extend()
            user.on_interim(head)
            if self._user is not user:  # it switched protocols, or has given up
                return None
            head = self.reader.read_head(b"")
        return head

    def pause_reading(self) -> None:
        """The client takes the answer slowly, which is not the application's delay."""
        if not self.transport.is_closing():
            self.transport.pause_reading()
            if self.state is _ANSWERING:
                self._clock.suspend()

    def resume_reading(self) -> None:
        """The client takes more."""
        if not self.transport.is_closing():
            self.transport.resume_reading()
            if self.state is _ANSWERING:
                self._clock.expect_more()

    # The end

    def connection_lost(self, exc: BaseException | None) -> None:
        if exc is not None and self.state in (_WAITING, _ANSWERING) and (arrived := read_arrived(self.transport)):
            self.data_received(arrived)
        user, state = self._user, self.state
        self._clock.close()
        self._user, self.state = None, _CLOSED
        if user is not None and state in (_WAITING, _ANSWERING):
            try:
                self.reader.end_of_input(exc)
            except BadMessage as error:
                user.on_upstream_error(BrokenReply(str(error)))
            else:
                user.on_answer_data(b"", ended=True)
        self._on_dead(self)

    def _timed_out(self, error: UpstreamError | None) -> None:
        if error is None or self._user is None:
            self.abort()
        else:
            self._user.on_upstream_error(error)

    def _broke(self, error: UpstreamError) -> None:
        user = self._user
        self.abort()
        if user is not None:
            user.on_upstream_error(error)

    def abort(self) -> None:
        """End the connection; its user gets nothing more."""
        self._user, self.state = None, _CLOSED
        self._clock.close()
        self.transport.abort()

    def hand_to(self, user: ResponseHandler) -> None:
        """Let another handler receive the rest of the answer, which takes any time."""
        self._user = user
        self.upload = None
        self._clock.begin(0.0, ANY_TIME_S)
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def hand_over(self) -> asyncio.Transport:
        """Give the transport to a tunnel, which is to report its end by `connection_lost`."""
        self._user = None
        self._clock.close()
        return self.transport

    # In the pool

    def idle(self, timeout_s: float) -> None:
        """Wait in the pool for at most `timeout_s`."""
        self._user = None
        self.reused = True
        self.state = _IDLE
        self._clock.idle(timeout_s)

    @property
    def reusable(self) -> bool:
        """Whether the finished answer left the connection at a message boundary, to the byte."""
        return self.state is _FINISHED and self.reader.reusable and not self.transport.is_closing()

    def is_alive(self) -> bool:
        """Whether the idle connection has nothing to read, as it should: asks the kernel, not the event loop."""
        return not (self.transport.is_closing() or self._poll.poll(0))
