"""The last 15 minutes, second by second: source of the charts, the overview and `sidegate top`."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from sidegate.telemetry.histogram import DURATIONS_S
from sidegate.telemetry.totals import Totals, quantiles_ms

KEPT_S = 15 * 60

SecondPage = Mapping[str, object]


class TrafficTimeline:
    """Takes the difference of cumulative counts once a second. `totals` returns the counts of all workers."""

    def __init__(self, totals: Callable[[], Totals]) -> None:
        self._totals = totals
        self._last = Totals()
        self._deltas: deque[Totals] = deque(maxlen=KEPT_S)
        self._ticked = asyncio.Event()
        self.seconds: deque[SecondPage] = deque(maxlen=KEPT_S)

    def tick(self) -> None:
        """Close the current second."""
        now = self._totals()
        delta, self._last = now - self._last, now
        self._deltas.append(delta)
        self.seconds.append(_page(delta, datetime.now(UTC).timestamp()))
        ticked, self._ticked = self._ticked, asyncio.Event()
        ticked.set()

    def skip(self, counted: Totals) -> None:
        """Exclude from the next second what was counted elsewhere before this timeline began."""
        self._last += counted

    def window(self, seconds: int) -> Totals:
        """The sum of the last closed seconds."""
        return Totals.sum_of(list(self._deltas)[-seconds:])

    @property
    def length_s(self) -> int:
        """Closed seconds that are stored."""
        return len(self._deltas)

    async def next(self) -> SecondPage:
        """Wait for the next closed second."""
        _ = await self._ticked.wait()
        return self.seconds[-1]


def _page(delta: Totals, time_s: float) -> SecondPage:
    """One second as JSON. `latency` counts requests per bucket of DURATIONS_S; it is empty without requests."""
    by_policy: dict[str, dict[str, int]] = {}
    for (policy, outcome), count in delta.outcomes.items():
        by_policy.setdefault(policy, {})[outcome] = count
    return {
        "time": round(time_s, 1),
        "requests": delta.requests,
        "responses": dict(delta.responses),
        "refused": delta.refused,
        "latency": list(delta.request_counts) if delta.requests else [],
        "policies": by_policy,
        "store_calls": delta.store_calls,
        "store_ms": quantiles_ms(delta.store_counts)["p50"],
    }


LATENCY_BOUNDS_MS = [bound_s * 1000 for bound_s in DURATIONS_S]
