"""The circuit breaker of the store: after a few failures, requests take the failure mode until a probe is answered.

    closed    every request calls the store
    open      no request does; all take the failure mode
    probing   as open, while one probe is under way

Theory of operation. Only failures in a row count, and only one in COUNTED_APART_S: when a connection breaks, all calls
in flight fail at once for one reason, and a connection that is replaced within milliseconds is no outage. While open,
probes follow each other with pauses that double up to LONGEST_PAUSE_S; each pause is drawn between half and all of
that, so that many sidecars do not probe at once. The longest pause bounds the delay until a store that is back is used.

The caller decides which failures count: neither an unreadable bucket nor this process's own overload does.

Pure: `now_s` is time.monotonic, in seconds; `chance` returns a number from 0 to 1.
"""

import random
from collections.abc import Callable
from enum import Enum

FAILURES_TO_OPEN = 3
COUNTED_APART_S = 0.01
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


class BreakerState(Enum):
    """The values are those of the metric."""

    CLOSED = 0
    OPEN = 1
    PROBING = 2


_CLOSED = BreakerState.CLOSED


class Breaker:
    """The breaker. `reason` is why it opened; `since_s` is when it last opened or closed."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._failures = 0
        self._counted_s = float("-inf")
        self._pause_s = FIRST_PAUSE_S
        self.state = BreakerState.CLOSED
        self.reason = ""
        self.since_s = 0.0

    @property
    def closed(self) -> bool:
        """Whether calls may be sent."""
        return self.state is _CLOSED

    def failed(self, reason: str, asked_s: float, now_s: float) -> bool:
        """Record that a call sent at `asked_s` failed. Returns whether the breaker opens."""
        if not self.closed or asked_s < self._counted_s + COUNTED_APART_S:
            return False
        self._failures += 1
        self._counted_s = now_s
        if self._failures < FAILURES_TO_OPEN:
            return False
        self.state, self.reason, self.since_s = BreakerState.OPEN, reason, now_s
        self._pause_s = FIRST_PAUSE_S
        return True

    def answered(self) -> None:
        """Record an answer: the failures before it were no outage."""
        if self._failures and self.closed:
            self._failures = 0

    def pause_s(self) -> float:
        """The pause before the next probe."""
        return self._pause_s * (0.5 + 0.5 * self._chance())

    def probe(self) -> bool:
        """Begin a probe. Returns False where one is under way or none is needed."""
        if self.state is not BreakerState.OPEN:
            return False
        self.state = BreakerState.PROBING
        return True

    def probe_failed(self, reason: str) -> None:
        """Record that the probe failed."""
        self.state, self.reason = BreakerState.OPEN, reason
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)

    def probe_answered(self, now_s: float) -> float:
        """Close the breaker. Returns how long it was open, in seconds."""
        open_s, self.since_s = now_s - self.since_s, now_s
        self.state, self._failures, self._counted_s = BreakerState.CLOSED, 0, float("-inf")
        return open_s
