"""Which keys are refused most: what a person on call asks first."""

from collections.abc import Callable, Sequence

from sidegate.decision.policy import PolicySet
from sidegate.telemetry.space_saving import WINDOWS, Most, Summary, joined

WINDOW_S = 60

Refused = Summary[tuple[str, str]]


class Refusals:
    """Counts refusals by bucket over the last minutes."""

    def __init__(self, policies: Callable[[], PolicySet]) -> None:
        self._policies = policies
        self._most: Most[tuple[str, str]] = Most()
        self._seconds = 0

    def note(self, refused: Sequence[tuple[str, str]]) -> None:
        """Count a request's refusals (see outcomes.refused_buckets)."""
        for entry in refused:
            self._most.add(entry)

    def each_second(self) -> None:
        """Forget the oldest minute when another has passed."""
        self._seconds += 1
        if self._seconds % WINDOW_S == 0:
            self._most.next_window()

    def summary(self) -> Refused:
        """Policies and buckets with how often they refused."""
        return self._most.summary()

    def page(self, count: int, others: Sequence[Refused] = ()) -> dict[str, object]:
        """The most refused, the first first; `others` were counted elsewhere, over minutes of their own."""
        prefix = self._policies().key_prefix
        refused = [
            {
                "policy": entry.key[0],
                "key": entry.key[1].removeprefix(f"{prefix}{entry.key[0]}:"),
                "bucket": entry.key[1],
                "count": entry.times,
                "error": entry.error,
            }
            for entry in joined([self.summary(), *others]).first(count)
        ]
        return {"minutes": WINDOWS, "refused": refused}
