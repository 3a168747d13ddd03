"""A deadline that is cheap to move.

Every connection has one, and moves it with every request; a timer of the event loop per request would cost more than
the deadline is worth. So the timer is armed once, and when it fires it checks whether the deadline has moved
meanwhile.
"""

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls `passed` once `set`'s time is over, unless it was moved or cleared before. Times are the loop's, in
    seconds."""

    __slots__ = ("_armed_s", "_due_s", "_loop", "_passed", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[], None]) -> None:
        self._loop = loop
        self._passed = passed
        self._due_s = 0.0  # 0: none
        self._armed_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, after_s: float) -> None:
        """Let the deadline be `after_s` from now."""
        due_s = self._due_s = self._loop.time() + after_s
        if self._timer is None or due_s < self._armed_s:
            self._arm(due_s)

    def clear(self) -> None:
        """Wait for nothing. The timer stays armed and will find nothing to do."""
        self._due_s = 0.0

    def close(self) -> None:
        """Stop the deadline for good."""
        self._due_s = 0.0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_s = due_s
        self._timer = self._loop.call_at(due_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if not self._due_s:
            return
        if self._due_s > self._loop.time():
            self._arm(self._due_s)
        else:
            self._due_s = 0.0
            self._passed()
