"""How slowly a client may send its body: not slower than a rate, with some seconds to spare."""


class BodyPatience:
    """A bucket of waiting time.

    It starts with `grace_s`; waiting for the client takes out of it, and every byte puts back its share of a second,
    never above `grace_s`. So a body that keeps the rate never runs out, a stall ends the body after `grace_s`, and
    nobody can save up for a long stall with a fast start.

    Only time spent waiting for the client counts: an application that takes the body slowly is not the client's fault.
    With a rate of 0 every piece fills it.
    """

    __slots__ = ("_grace_s", "_least_bytes_per_s", "left_s")

    def __init__(self, grace_s: float, least_bytes_per_s: int) -> None:
        self._grace_s = grace_s
        self._least_bytes_per_s = least_bytes_per_s
        self.left_s = grace_s

    def received(self, body_bytes: int, waited_s: float) -> None:
        """So much came after so long a wait."""
        if self._least_bytes_per_s:
            self.left_s += body_bytes / self._least_bytes_per_s - waited_s
            self.left_s = min(self.left_s, self._grace_s)
        else:
            self.left_s = self._grace_s
