"""Paces the script calls to one server: what it cannot do at once waits here instead of timing out there.

A server runs one script after the other. Calls that are sent all at once wait in the server, each against its own
deadline, so that a burst of large calls makes the later ones fail though the server is healthy. Only the deadline of a
call that has been sent runs; a call that waits fails with the first one that fails while the server answers nothing,
and after LONGEST_WAIT_S, which is then this proxy's overload.
"""

import time
from collections import deque
from typing import Protocol

from sidegate.store.protocol import StoreUnavailable

# About 7 ms of a server's time: far below any deadline, and enough to keep it busy over a round trip.
MOST_CHARGES_UNDER_WAY = 1024
LONGEST_WAIT_S = 1.0


class QueuedCall(Protocol):
    """A call that can wait."""

    asked_s: float
    # How many buckets it charges.
    size: int
    # Whether it has ended, as by a deadline of its own.
    done: bool

    def begin(self) -> None:
        """Send the call; its end is reported once to `CallQueue.ended`."""

    def finish(self, reply: object) -> None:
        """End the call without sending it."""


class CallQueue:
    """The calls to one server, in order."""

    __slots__ = ("_advancing", "_answered_s", "_under_way", "_waiting")

    def __init__(self) -> None:
        self._under_way = 0
        self._waiting: deque[QueuedCall] = deque()
        self._answered_s = 0.0
        self._advancing = False

    def send(self, call: QueuedCall) -> None:
        """Send the call now, or once enough of the earlier ones have ended."""
        if self._waiting or not self._fits(call):
            self._waiting.append(call)
        else:
            self._under_way += call.size
            call.begin()

    def ended(self, call: QueuedCall, reply: object) -> None:
        """Record the end of a call that was sent, and send what has waited for it."""
        self._under_way -= call.size
        if not isinstance(reply, StoreUnavailable):
            self._answered_s = time.monotonic()
        elif self._waiting and self._answered_s < call.asked_s:
            waiting, self._waiting = self._waiting, deque()
            for each in waiting:
                each.finish(reply)
        if self._advancing:  # the call ended while it was sent, as without a connection: the loop below goes on
            return
        self._advancing = True
        try:
            self._advance()
        finally:
            self._advancing = False

    def _advance(self) -> None:
        while self._waiting and self._fits(self._waiting[0]):
            following = self._waiting.popleft()
            if following.done:
                continue
            if time.monotonic() - following.asked_s > LONGEST_WAIT_S:
                following.finish(StoreUnavailable("overloaded", f"not sent within {LONGEST_WAIT_S:g} s"))
            else:
                self._under_way += following.size
                following.begin()

    def _fits(self, call: QueuedCall) -> bool:
        return not self._under_way or self._under_way + call.size <= MOST_CHARGES_UNDER_WAY
