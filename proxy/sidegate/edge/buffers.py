"""The memory that all buffered bodies of the process share: what slow clients send, and what they have not read yet.

A body without a share is streamed: each side is read no faster than the other one reads.
"""

from collections.abc import Iterator

from sidegate.decision.reading import Reading


class BufferBudget:
    """Lends up to `most_bytes`. `exhausted` counts the bodies that got no share."""

    __slots__ = ("_most_bytes", "exhausted", "requests_bytes", "responses_bytes")

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.requests_bytes = 0
        self.responses_bytes = 0
        self.exhausted = 0

    def lend_request(self, count: int) -> bool:
        """A share for `count` more bytes of a request's body; False where none is left. A negative count returns it."""
        if not self._has(count):
            return False
        self.requests_bytes += count
        return True

    def lend_response(self, count: int) -> bool:
        """As `lend_request`, for an answer's body."""
        if not self._has(count):
            return False
        self.responses_bytes += count
        return True

    def readings(self) -> Iterator[Reading]:
        """Metrics of the buffers."""
        yield Reading(
            "buffered_bytes",
            "Bytes of bodies that are held for slow clients, by direction.",
            lambda: {"requests": self.requests_bytes, "responses": self.responses_bytes},
            label="direction",
        )
        text = "Bodies that were not buffered since upstream.buffer_total was used up."
        yield Reading("buffer_exhausted", text, lambda: self.exhausted, is_counter=True)

    def _has(self, count: int) -> bool:
        if self.requests_bytes + self.responses_bytes + count <= self._most_bytes or count <= 0:
            return True
        self.exhausted += 1
        return False


class RequestShare:
    """What one request's body may hold: at most `most_bytes`, as far as the budget has them."""

    __slots__ = ("_budget", "_lent_bytes", "most_bytes")

    def __init__(self, budget: BufferBudget, most_bytes: int) -> None:
        self._budget = budget
        self._lent_bytes = 0
        self.most_bytes = most_bytes

    def borrow(self, count: int) -> bool:
        """Whether `count` more bytes may be held."""
        lent = self._lent_bytes + count <= self.most_bytes and self._budget.lend_request(count)
        if lent:
            self._lent_bytes += count
        return lent

    def release(self) -> None:
        """Return the share."""
        if self._lent_bytes:
            _ = self._budget.lend_request(-self._lent_bytes)
            self._lent_bytes = 0
