"""The circuit breaker before the store: after a few failures nobody is asked to wait for it until a probe was answered.

    closed    every request is asked about
    open      none is; they take the failure mode at once
    probing   as open, but one question of our own is under way

Theory of operation. Failures count only in a row, and only one in COUNTED_APART_S: when a connection breaks, all that
was under way fails at one moment and for one reason, and a connection that is replaced within milliseconds is no
outage. While open, probes follow one another with pauses that double up to LONGEST_PAUSE_S; each is drawn between half
and all of it, so that many sidecars come back spread out. The longest pause bounds how late a store that answers again
is noticed.

What counts as a failure of the store is the caller's to say: neither one unreadable bucket nor an overload of our own.

Pure: `now_s` is the loop's clock, in seconds; `chance` gives a number from 0 to 1.
"""

import random
from collections.abc import Callable
from enum import Enum

FAILURES_TO_OPEN = 3
COUNTED_APART_S = 0.01
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


class BreakerState(Enum):
    """The value is what the metric says."""

    CLOSED = 0
    OPEN = 1
    PROBING = 2


_CLOSED = BreakerState.CLOSED


class Breaker:
    """See the module's text. `reason` says what opened it, `since_s` when its state last changed from or to closed."""

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
        """Whether the store may be asked."""
        return self.state is _CLOSED

    def failed(self, reason: str, asked_s: float, now_s: float) -> bool:
        """Note a question, sent at `asked_s`, that the store failed. Returns whether the breaker opens with it."""
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
        """Note an answer: what failed before it was no outage."""
        if self._failures and self.closed:
            self._failures = 0

    def pause_s(self) -> float:
        """How long to wait before the next probe."""
        return self._pause_s * (0.5 + 0.5 * self._chance())

    def probe(self) -> bool:
        """Begin a probe. Returns False, and begins none, where one is under way or none is needed."""
        if self.state is not BreakerState.OPEN:
            return False
        self.state = BreakerState.PROBING
        return True

    def probe_failed(self, reason: str) -> None:
        """The probe was not answered, or with an error."""
        self.state, self.reason = BreakerState.OPEN, reason
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)

    def probe_answered(self, now_s: float) -> float:
        """The store works again: close. Returns for how long, in seconds, the breaker was open."""
        open_s, self.since_s = now_s - self.since_s, now_s
        self.state, self._failures, self._counted_s = BreakerState.CLOSED, 0, float("-inf")
        return open_s
