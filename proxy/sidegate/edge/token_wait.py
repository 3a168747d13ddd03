"""Requests that wait for tokens booked ahead: without a task and without another store call.

The store's reply names the time; it is counted from the reply on, so that no request departs before its tokens are
there. `listen.max_waiting` bounds the requests that wait, with those that are being decided and may have to: further
ones are decided without a wait.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence

from sidegate.decision.bucket import ChargeKind
from sidegate.decision.policy import PolicyMatch
from sidegate.decision.reading import Reading


class WaitingRoom:
    """The waiting requests of one process."""

    def __init__(self) -> None:
        self._places = 0
        self._waiting = 0

    def enter(self, applied: Sequence[PolicyMatch], most: int) -> "tuple[Sequence[PolicyMatch], TokenWait | None]":
        """A place for a request that may have to wait; where there is none, the policies without their waits."""
        if not any(charge is not None and charge.kind is ChargeKind.BOOK for _, charge in applied):
            return applied, None
        if self._places >= most:
            return [_without_wait(entry) for entry in applied], None
        self._places += 1
        return applied, TokenWait(self)

    def readings(self) -> Iterator[Reading]:
        """The gauge of requests that wait."""
        yield Reading("requests_waiting", "Requests that wait for their tokens.", lambda: self._waiting)


class TokenWait:
    """One request's place in the room, and its wait. `end` may be called at any time and more than once."""

    __slots__ = ("_ended", "_room", "_timer")

    def __init__(self, room: WaitingRoom) -> None:
        self._room = room
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, wait_us: int, then: Callable[[], None]) -> None:
        """Call `then` after the wait, unless it ends before."""
        # A millisecond is the resolution of the event loop's timers, which may fire early by that much.
        self._timer = asyncio.get_running_loop().call_later(wait_us / 1e6 + 0.001, then)
        self._room._waiting += 1

    @property
    def left_s(self) -> float:
        """How long it still waits."""
        return 0.0 if self._timer is None else self._timer.when() - asyncio.get_running_loop().time()

    def end(self) -> None:
        """Leave the room."""
        if self._ended:
            return
        self._ended = True
        self._room._places -= 1
        if self._timer is not None:
            self._timer.cancel()
            self._room._waiting -= 1


def _without_wait(entry: PolicyMatch) -> PolicyMatch:
    charge = entry.charge
    if charge is None or charge.kind is not ChargeKind.BOOK:
        return entry
    return entry._replace(charge=charge._replace(detail=(0,)))
