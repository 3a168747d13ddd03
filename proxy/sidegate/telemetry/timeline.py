"""The last quarter of an hour, second by second: what the dashboard draws, and what `sidegate top` shows."""

import asyncio
from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

KEPT_S = 15 * 60

Second = Mapping[str, object]


class Counts(Protocol):
    """What only grows."""

    def outcomes(self) -> Counter[tuple[str, str]]:
        """Requests by policy and outcome."""

    def round_trips(self) -> tuple[int, float]:
        """How many calls the store has answered, and the seconds that this took it in all."""


class Timeline:
    """Takes the difference of what is counted once a second. `seconds` holds them, the oldest first."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._calls, self._round_trips_s = 0, 0.0
        self._told = asyncio.Event()
        self.seconds: deque[Second] = deque(maxlen=KEPT_S)

    def tick(self) -> None:
        """Close the present second."""
        outcomes = self._counts.outcomes()
        by_policy: dict[str, dict[str, int]] = {}
        for entry, count in outcomes.items():
            if grown := count - self._outcomes[entry]:
                by_policy.setdefault(entry[0], {})[entry[1]] = grown
        calls, total_s = self._counts.round_trips()
        new_calls = calls - self._calls
        mean_ms = round((total_s - self._round_trips_s) / new_calls * 1000, 3) if new_calls else None
        self._outcomes, self._calls, self._round_trips_s = outcomes, calls, total_s
        now = round(datetime.now(UTC).timestamp(), 1)
        self.seconds.append({"time": now, "policies": by_policy, "store_calls": new_calls, "store_ms": mean_ms})
        told, self._told = self._told, asyncio.Event()
        told.set()

    def pass_over(self, counts: Counts) -> None:
        """Leave out of the next second what was counted elsewhere before this timeline began."""
        self._outcomes += counts.outcomes()
        calls, total_s = counts.round_trips()
        self._calls, self._round_trips_s = self._calls + calls, self._round_trips_s + total_s

    async def next(self) -> Second:
        """The second that is closed next."""
        _ = await self._told.wait()
        return self.seconds[-1]
