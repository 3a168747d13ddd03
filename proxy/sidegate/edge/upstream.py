"""One connection to the application: sends a request's head, hands over the answer, and knows whether it may be used
again.

A connection is used again only when the answer ended at exactly the last byte received: by count where there is a
Content-Length, by its closing bytes where it is chunked. Anything else (bytes behind the answer, trailers, an answer
that ends with the connection) closes it, so that no stray byte can be taken for the beginning of somebody else's
answer. For the same reason an idle connection that receives anything, be it bytes or the end, is dead.
"""

import asyncio
import logging
import select
from enum import Enum
from typing import Protocol

from sidegate.edge.deadline import Deadline
from sidegate.edge.wire import (
    BROKEN_BODY,
    CONTENT_LENGTH,
    EMPTY_BODY,
    BaseProtocol,
    Body,
    ResponseMessage,
    ResponseParser,
    ends_clean,
    response_parser,
)

# The application's answer head may be at most this long; more is a fault of its own.
LARGEST_HEAD_BYTES = 256 * 1024
# The longest whole answer whose head a connection keeps in mind, to know it again.
_KNOWN_BYTES = 16 * 1024

logger = logging.getLogger(__name__)


class UpstreamError(Exception):
    """The application failed the request."""


class ConnectFailed(UpstreamError):
    """No connection could be made: nothing was sent."""


class ConnectTimedOut(ConnectFailed):
    """No connection was accepted in time: nothing was sent."""


class Busy(UpstreamError):
    """No connection became free in time: nothing was sent."""


class QueueFull(Busy):
    """Too many wait for one already: nothing was sent."""


class TimedOut(UpstreamError):
    """No answer in time."""


class Stalled(UpstreamError):
    """An answer began, and then nothing more of it came in time."""


class BrokenReply(UpstreamError):
    """The connection ended before the answer did, or what came was not valid HTTP."""


class AnswerHead:
    """The head of an answer that a connection has seen.

    A later answer that begins with the same bytes, and is as long as they say, is whole and need not be parsed again.

    `kept` is for the user's own use: what it has worked out of the head.
    """

    __slots__ = ("body_bytes", "kept", "message", "raw", "size")

    def __init__(self, raw: bytes, message: ResponseMessage, body_bytes: int) -> None:
        self.raw = raw
        self.message = message
        self.body_bytes = body_bytes
        self.size = len(raw) + body_bytes  # of the whole answer
        self.kept = b""


class Using(Protocol):
    """Whoever uses the connection at the moment."""

    def on_whole_answer(self, head: AnswerHead, body: bytes) -> None:
        """A final answer has come, whole; what `on_response` tells of another one."""

    def on_response(self, message: ResponseMessage, body: Body) -> None:
        """The head of an answer (also an interim one) has come, with as much of its body as came along."""

    def on_upstream_error(self, error: UpstreamError) -> None:
        """There will be no answer. Once its head has come, its body's reader raises the error instead."""

    def fail_internally(self) -> None:
        """Handling the answer raised: answer for ourselves."""


class _Ending(Enum):
    """How the end of the present answer is known."""

    COUNTED = "counted"
    CHUNKED = "chunked"
    UNKNOWN = "unknown"


_COUNTED, _UNKNOWN = _Ending.COUNTED, _Ending.UNKNOWN


class UpstreamConnection(BaseProtocol):
    """See the module's text.

    `answered` tells whether any byte of the present answer has come; `early` is what came behind one that switches
    protocols.
    """

    _parser: ResponseParser

    def __init__(self, loop: asyncio.AbstractEventLoop, on_dead: "OnDead") -> None:
        super().__init__(loop)
        self._parser = response_parser(self, loop)
        self._normal_parser = self._parser
        self._on_dead = on_dead
        self._user: Using | None = None
        self._deadline = Deadline(loop, self._timed_out)
        self._timeout_s = 0.0
        self._between_s = 0.0
        self._known: AnswerHead | None = None
        self.reused = False
        self.answered = False
        self._head = b""
        self._received = 0
        self._ending = _UNKNOWN
        self._expected = 0
        self._last_bytes = b""
        self._body: Body | None = None
        self._spent = False
        self.early = b""

    def send(self, user: Using, data: bytes, *, head_only: bool, timeout_s: float, between_s: float) -> None:
        """Begin a request. Its user hears of the answer, or of its failure after `timeout_s` without its whole head, or
        `between_s` without more of its body.

        With a timeout of 0 the answer is not waited for yet: the body is still being sent (see `expect_answer`).
        """
        self._user = user
        self._between_s = between_s
        # All else is as the last answer left it, which was whole and in order.
        self.answered = False
        self._received = 0
        self._ending = _UNKNOWN
        # The parser is told at birth whether answers have bodies; answers to HEAD get one of their own.
        self._parser = response_parser(self, self._loop, bodyless=True) if head_only else self._normal_parser
        self.expect_answer(timeout_s)
        transport = self.transport
        assert transport is not None  # noqa: S101  (the pool hands out living connections)
        transport.write(data)

    def expect_answer(self, timeout_s: float) -> None:
        """From now on, `timeout_s` without the answer's head is a failure; 0: for no time at all."""
        self._timeout_s = timeout_s
        if self._body is None:
            self._await_head()

    def write(self, data: bytes) -> None:
        """Send more of the request's body; lost where the connection is lost, which the user hears of anyway."""
        if self.usable:
            self.transport.write(data)  # type: ignore[union-attr]  # `usable` looked

    async def drain(self) -> None:
        """Wait until the application takes more. Raises ConnectionError where the connection is lost."""
        await self._drain_helper()

    def idle(self, timeout_s: float) -> None:
        """Rest in the pool for at most `timeout_s`."""
        self._user = None
        self._body = None
        self.reused = True
        self._deadline.set(timeout_s)

    @property
    def reusable(self) -> bool:
        """Whether the finished answer left the connection at a message boundary, to the byte."""
        if self._spent or not self.usable:
            return False
        if self._ending is _COUNTED:
            return self._received == self._expected
        return self._ending is _Ending.CHUNKED and ends_clean(self._last_bytes)

    @property
    def usable(self) -> bool:
        """Whether the connection can be written to, as far as the event loop knows."""
        return self.transport is not None and not self.transport.is_closing()

    def looks_alive(self) -> bool:
        """Whether the idle connection has nothing to read, as it should; asks the kernel, not the event loop."""
        poll = select.poll()
        assert self.transport is not None  # noqa: S101  (asked of usable connections only)
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLHUP)
        return not poll.poll(0)

    def abort(self) -> None:
        """End the connection and tell nobody."""
        self._user = None
        self._deadline.close()
        if self.transport is not None:
            self.transport.abort()

    def hand_over(self) -> asyncio.Transport:
        """Give the transport to a tunnel, which is to report its end by `connection_lost`."""
        self._user = None
        self._deadline.close()
        assert self.transport is not None  # noqa: S101  (an answer has just come from it)
        return self.transport

    def pause_reading(self) -> None:
        """The client takes the answer slowly, which is not the application's delay; `data_received` watches again."""
        super().pause_reading()
        self._deadline.clear()

    def _await_head(self) -> None:
        # One deadline for all of it: a head that drips is no answer.
        if self._timeout_s:
            self._deadline.set(self._timeout_s)
        else:
            self._deadline.clear()

    def _await_more(self) -> None:
        if self._user is not None:  # or it was given up while it was told of what came
            self._deadline.set(self._between_s)

    def data_received(self, data: bytes) -> None:
        known = self._known
        if known is not None and len(data) == known.size and data.startswith(known.raw):
            user = self._user
            # None for an answer that nobody asked for; another parser for one to HEAD.
            if user is not None and not self.answered and self._parser is self._normal_parser:
                self.answered = True
                self._ending, self._received, self._expected = _COUNTED, known.size, known.size
                self._body = EMPTY_BODY
                self._tell_whole(known, data)
                return
        if self._user is None:
            self.abort()
            return
        if self._body is not None and self._body.is_eof():
            self._spent = self._spent or bool(data)  # bytes behind the answer
            return
        self.answered = True
        self._received += len(data)
        try:
            messages, _, self.early = self._parser.feed_data(data)
        except BROKEN_BODY as error:
            self._broke(BrokenReply(str(error).partition("\n")[0]))
            return
        if messages:
            self._on_messages(messages, self._head + data if self._head else data)
        elif self._body is None:
            self._head += data
            if len(self._head) > LARGEST_HEAD_BYTES:
                self._broke(BrokenReply("the head of the answer is too large"))
        elif self._ending is _Ending.CHUNKED:
            self._last_bytes = (self._last_bytes + data)[-7:]
        if self._body is not None and not self._body.is_eof():
            self._await_more()

    def _on_messages(self, messages: list[tuple[ResponseMessage, Body]], received: bytes) -> None:
        if self._body is not None:
            self._spent = True  # a second answer behind the first: never given to anybody
            return
        head_ends = received.find(b"\r\n\r\n") + 4
        if len(messages) > 1:
            self._spent = True  # an interim answer, or a second one: known before the first is told of and so released
        for message, body in messages:
            if message.code < 200:
                self._spent = True  # an interim answer: the count of the bytes is off
                self._await_head()
                self._tell(message, body)
                if message.code == 101:
                    return
            elif self._body is None:
                self._body = body
                if self._know_ending(message, head_ends, received) and (head := self._known) is not None:
                    self._tell_whole(head, received)
                else:
                    self._tell(message, body)
            else:
                self._spent = True
        self._head = b""

    def _know_ending(self, message: ResponseMessage, head_ends: int, received: bytes) -> bool:
        """Find out how the end of the answer is known; whether it is all there, and its head is now `_known`."""
        if message.should_close or not _ends_strictly(received[:head_ends]):
            self._spent = True
        elif self._parser is not self._normal_parser or message.code in (204, 304):
            self._ending, self._expected = _COUNTED, head_ends
        elif message.chunked:
            self._ending, self._last_bytes = _Ending.CHUNKED, received[-7:]
        elif (length := message.headers.get(CONTENT_LENGTH)) is not None:
            self._ending, self._expected = _COUNTED, head_ends + int(length)
            if self._expected == self._received == len(received) <= _KNOWN_BYTES and not self._spent:
                self._known = AnswerHead(received[:head_ends], message, int(length))
                return True
        return False

    def _tell(self, message: ResponseMessage, body: Body) -> None:
        user = self._user
        if user is None:
            return
        try:
            user.on_response(message, body)
        except Exception:  # the boundary of one request: nothing may leave its client waiting
            logger.exception("an answer could not be passed on")
            user.fail_internally()

    def _tell_whole(self, head: AnswerHead, received: bytes) -> None:
        user = self._user
        if user is None:
            return
        try:
            user.on_whole_answer(head, received[len(head.raw) :])
        except Exception:  # the boundary of one request, as above
            logger.exception("an answer could not be passed on")
            user.fail_internally()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._deadline.close()
        if self._user is not None:
            self._end_of_input(exc)
        self._on_dead(self)

    def _end_of_input(self, exc: BaseException | None) -> None:
        """The connection ended: that completes a body without length, and breaks any other."""
        if self._body is None:
            self._broke(BrokenReply(str(exc or "the application closed the connection without an answer")))
        elif not self._body.is_eof():
            try:
                self._parser.feed_eof()
            except BROKEN_BODY as error:
                self._broke(BrokenReply(str(error)))

    def _timed_out(self) -> None:
        if self._user is None:
            self.abort()
        elif self._body is None:
            self._broke(TimedOut(f"no answer within {self._timeout_s:g} s"))
        else:
            self._broke(Stalled(f"nothing more of the answer within {self._between_s:g} s"))

    def _broke(self, error: UpstreamError) -> None:
        user, body = self._user, self._body
        self._spent = True
        self.abort()
        if body is None:
            if user is not None:
                user.on_upstream_error(error)
        elif not body.is_eof():
            body.set_exception(error)


def _ends_strictly(head: bytes) -> bool:
    """Whether the parser, which takes a bare LF for the end of a line, found the same end of the head as we did."""
    return len(head) >= 4 and head.find(b"\n\r\n") == len(head) - 3 and b"\n\n" not in head


class OnDead(Protocol):
    """Is told that a connection has ended, for whatever reason."""

    def __call__(self, connection: UpstreamConnection, /) -> None: ...
