"""The minimum rate of a request's body, with a grace period."""

import asyncio
import time
from collections.abc import Callable

from sidegate.edge.deadline import Deadline


class BodyAllowance:
    """A bucket of waiting time.

    It starts with `grace_s`; waiting for the client takes out of it, and every byte puts back its share of a second,
    never above `grace_s`. So a body that keeps the rate never runs out, a stall ends the body after `grace_s`, and
    a fast start earns no long stall later.

    Only time spent waiting for the client counts: an application that takes the body slowly is not the client's fault.
    With a rate of 0 every piece fills it.
    """

    __slots__ = ("_grace_s", "_least_bytes_per_s", "left_s")

    def __init__(self, grace_s: float, least_bytes_per_s: int) -> None:
        self._grace_s = grace_s
        self._least_bytes_per_s = least_bytes_per_s
        self.left_s = grace_s

    def received(self, body_bytes: int, waited_s: float) -> None:
        """Credit `body_bytes` that came after waiting for `waited_s`."""
        if self._least_bytes_per_s:
            self.left_s += body_bytes / self._least_bytes_per_s - waited_s
            self.left_s = min(self.left_s, self._grace_s)
        else:
            self.left_s = self._grace_s


class BodyClock:
    """Counts the time that a client takes for a body, and calls `passed` when it has taken too long."""

    __slots__ = ("_allowance", "_deadline", "_since_s")

    def __init__(self, allowance: BodyAllowance, passed: Callable[[], None]) -> None:
        self._allowance = allowance
        self._deadline = Deadline(asyncio.get_running_loop(), passed)
        self._since_s = 0.0

    def wait(self) -> None:
        """Start counting the wait for the client."""
        self._since_s = time.perf_counter()
        self._deadline.set(max(0.0, self._allowance.left_s))

    def received(self, body_bytes: int) -> None:
        """Credit received bytes, and wait for more."""
        self._allowance.received(body_bytes, time.perf_counter() - self._since_s)
        self.wait()

    def suspend(self) -> None:
        """Stop counting while the sidecar does not read."""
        self._allowance.received(0, time.perf_counter() - self._since_s)
        self._deadline.clear()

    def close(self) -> None:
        """Stop for good."""
        self._deadline.close()
