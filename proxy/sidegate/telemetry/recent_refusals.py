"""The refusals of the last minutes, for `sidegate tail`: one entry for each bucket and second.

A request costs a dictionary look-up, whatever the rate. Entries are bounded in number and size.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sidegate.decision.policy import PolicySet
from sidegate.decision.record import Record
from sidegate.telemetry.outcomes import refused_key
from sidegate.telemetry.request_log import shown_method, shown_path

# Buckets of one second; all others share the entry OTHERS.
MOST_BUCKETS = 50
OTHERS = ("others", "")
KEPT = 1_000
# Reports are sent each second, and one may be overtaken by the next.
REPORTED_S = 3

# Plain values, fit for JSON: policy, key, bucket, count, time (ISO 8601, UTC), client, method, path, retry_after_s.
RefusalEntry = dict[str, Any]


@dataclass(slots=True)
class _Grouped:
    """Refusals of one bucket within a second; `last` is the newest."""

    count: int
    last: Record


class RecentRefusals:
    """Numbered entries, the newest last. `policies` returns the active policies."""

    def __init__(self, policies: Callable[[], PolicySet]) -> None:
        self._policies = policies
        self._second: dict[tuple[str, str], _Grouped] = {}
        self._kept: deque[tuple[int, RefusalEntry]] = deque(maxlen=KEPT)
        self._last = 0
        self._ends: deque[int] = deque([0] * REPORTED_S, maxlen=REPORTED_S)
        self._own: deque[tuple[int, RefusalEntry]] = deque(maxlen=(MOST_BUCKETS + 1) * REPORTED_S)
        self._own_last = 0
        self._seen: dict[tuple[int, int], int] = {}

    def note(self, record: Record, refused: Sequence[tuple[str, str]]) -> None:
        """Count a request's refusals (see outcomes.refused_buckets)."""
        for entry in refused:
            if (known := self._second.get(entry)) is not None:
                known.count += 1
                known.last = record
            elif len(self._second) < MOST_BUCKETS:
                self._second[entry] = _Grouped(1, record)
            elif (others := self._second.get(OTHERS)) is not None:
                others.count += 1
                others.last = record
            else:
                self._second[OTHERS] = _Grouped(1, record)

    def each_second(self) -> None:
        """Make entries of the last second."""
        self._ends.append(self._own_last)
        if not self._second:
            return
        time = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        grouped, self._second = self._second, {}
        for (policy, bucket), each in grouped.items():
            self._own_last += 1
            entry = self._entry(time, policy, bucket, each)
            self._own.append((self._own_last, entry))
            self._keep(entry)

    def report(self) -> list[tuple[int, RefusalEntry]]:
        """This worker's entries of the last REPORTED_S seconds with their numbers."""
        return [(number, entry) for number, entry in self._own if number > self._ends[0]]

    def take(self, worker: int, pid: int, entries: Iterable[tuple[int, RefusalEntry]]) -> None:
        """Add what another worker has reported. Entries that were added before are left out."""
        seen = self._seen.get((worker, pid), 0)
        self._seen = {key: number for key, number in self._seen.items() if key[0] != worker}
        for number, entry in entries:
            if number > seen:
                seen = number
                self._keep(entry)
        self._seen[worker, pid] = seen

    def after(self, number: int) -> tuple[int, list[RefusalEntry]]:
        """The number of the newest entry, and all kept entries after `number`.

        A number beyond the newest is of an earlier process: then all entries are new.
        """
        begin = number if number <= self._last else 0
        return self._last, [entry for each, entry in self._kept if each > begin]

    def _keep(self, entry: RefusalEntry) -> None:
        self._last += 1
        self._kept.append((self._last, entry))

    def _entry(self, time: str, policy: str, bucket: str, grouped: _Grouped) -> RefusalEntry:
        record, policies = grouped.last, self._policies()
        verdict = record.verdict
        retry_us = verdict.retry_us if verdict else None
        return {
            "time": time,
            "policy": policy,
            "key": refused_key(policy, bucket, policies),
            "bucket": bucket,
            "count": grouped.count,
            "client": policies.identity.client_group(record.facts),
            "method": shown_method(record),
            "path": shown_path(record),
            "retry_after_s": None if retry_us is None else round(retry_us / 1e6, 3),
        }
