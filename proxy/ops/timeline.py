"""The last quarter of an hour, second by second: what the dashboard draws, and what `sidegate top` shows."""

import asyncio
from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime

from proxy.ops.metrics import Metrics

KEPT_S = 15 * 60

Second = Mapping[str, object]


class Timeline:
    """Takes the difference of the metrics once a second. `seconds` holds them, the oldest first."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._calls, self._round_trips_s = 0, 0.0
        self._told = asyncio.Event()
        self.seconds: deque[Second] = deque(maxlen=KEPT_S)

    def tick(self) -> None:
        """Close the present second."""
        outcomes = self._metrics.outcomes()
        by_policy: dict[str, dict[str, int]] = {}
        for entry, count in outcomes.items():
            if grown := count - self._outcomes[entry]:
                by_policy.setdefault(entry[0], {})[entry[1]] = grown
        round_trip = self._metrics.round_trip
        total_s, calls = round_trip.total, sum(round_trip.counts())
        new_calls = calls - self._calls
        mean_ms = round((total_s - self._round_trips_s) / new_calls * 1000, 3) if new_calls else None
        self._outcomes, self._calls, self._round_trips_s = outcomes, calls, total_s
        now = round(datetime.now(UTC).timestamp(), 1)
        self.seconds.append({"time": now, "policies": by_policy, "store_calls": new_calls, "store_ms": mean_ms})
        told, self._told = self._told, asyncio.Event()
        told.set()

    async def next(self) -> Second:
        """The second that is closed next."""
        _ = await self._told.wait()
        return self.seconds[-1]
