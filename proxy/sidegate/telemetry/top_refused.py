"""The keys refused most in the last minutes."""

from collections.abc import Callable, Sequence

from sidegate.decision.policy import PolicySet
from sidegate.telemetry.outcomes import refused_key
from sidegate.telemetry.space_saving import WINDOWS, KeySummary, RecentKeys, joined

WINDOW_S = 60

RefusedKeys = KeySummary[tuple[str, str]]


class TopRefused:
    """Counts refusals by bucket over the last WINDOWS minutes."""

    def __init__(self, policies: Callable[[], PolicySet]) -> None:
        self._policies = policies
        self._recent: RecentKeys[tuple[str, str]] = RecentKeys()
        self._seconds = 0

    def note(self, refused: Sequence[tuple[str, str]]) -> None:
        """Count a request's refusals (see outcomes.refused_buckets)."""
        for entry in refused:
            self._recent.add(entry)

    def each_second(self) -> None:
        """Drop the oldest minute after each minute."""
        self._seconds += 1
        if self._seconds % WINDOW_S == 0:
            self._recent.next_window()

    def summary(self) -> RefusedKeys:
        """Policies and buckets with their number of refusals."""
        return self._recent.summary()

    def page(self, count: int, others: Sequence[RefusedKeys] = ()) -> dict[str, object]:
        """The `count` keys refused most, in order; `others` are the counts of other workers, whose minutes differ."""
        policies = self._policies()
        refused = [
            {
                "policy": entry.key[0],
                "key": refused_key(*entry.key, policies),
                "bucket": entry.key[1],
                "count": entry.times,
                "error": entry.error,
            }
            for entry in joined([self.summary(), *others]).first(count)
        ]
        return {"minutes": WINDOWS, "refused": refused}
