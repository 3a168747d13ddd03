"""How long an answer may take: until its head, and between two pieces of its body.

Only delays of the application count: the clock stands still while the request's body is being sent and while the client
does not read the answer.
"""

import asyncio
from collections.abc import Callable
from enum import Enum

from sidegate.edge.deadline import Deadline
from sidegate.edge.upstream_errors import Stalled, TimedOut, UpstreamError


class AnswerClock:
    """One connection's deadline. `timeout_s` without the head, or `between_s` without more, calls `passed`."""

    __slots__ = ("_between_s", "_deadline", "_passed", "_timeout_s", "_waits")

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[UpstreamError | None], None]) -> None:
        self._deadline = Deadline(loop, self._ring)
        self._passed = passed
        self._timeout_s = self._between_s = 0.0
        self._waits = ClockState.NOTHING

    def begin(self, timeout_s: float, between_s: float) -> None:
        """Start for a request that is being sent. With a timeout of 0 the clock starts at `expect_head`."""
        self._between_s = between_s
        self._timeout_s = timeout_s
        if timeout_s:
            self._waits = ClockState.HEAD
            self._deadline.set(timeout_s)
        else:
            self._waits = ClockState.NOTHING
            self._deadline.clear()

    def expect_head(self, timeout_s: float) -> None:
        """Start waiting for the head."""
        self.begin(timeout_s, self._between_s)

    def extend(self) -> None:
        """Restart the wait for the head after an interim answer."""
        if self._waits is ClockState.HEAD:
            self._deadline.set(self._timeout_s)

    def expect_more(self) -> None:
        """Wait for more of the body, or for the application to take more of the request's."""
        self._waits = ClockState.MORE
        self._deadline.set(self._between_s)

    def suspend(self) -> None:
        """Stop the clock while the application is not the cause of a delay."""
        self._waits = ClockState.NOTHING
        self._deadline.clear()

    def idle(self, timeout_s: float) -> None:
        """Start the idle timeout; `passed` is then called with None."""
        self._waits = ClockState.NOTHING
        self._deadline.set(timeout_s)

    def close(self) -> None:
        """Stop the clock for good."""
        self._deadline.close()

    def _ring(self) -> None:
        match self._waits:
            case ClockState.HEAD:
                self._passed(TimedOut(f"no answer within {self._timeout_s:g} s"))
            case ClockState.MORE:
                self._passed(Stalled(f"nothing moved within {self._between_s:g} s"))
            case ClockState.NOTHING:
                self._passed(None)


class ClockState(Enum):
    """The event that the clock waits for."""

    NOTHING = "nothing of an answer"
    HEAD = "the answer's head"
    MORE = "more of a body"
