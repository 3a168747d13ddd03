"""Aggregates metrics and state across the worker processes of one sidecar.

Each worker reports once a second through the parent process (workers/parent). No page waits for another worker: a
worker that hangs is shown with its last report and the report's age; counts of a worker that died remain in the sums.
With one worker there are no reports.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import Metric

from sidegate.telemetry.escaping import utf8_safe_content
from sidegate.telemetry.merge_metrics import Snapshot, exposition_of, families, merged, snapshot
from sidegate.telemetry.metrics import Metrics
from sidegate.telemetry.recent_refusals import RecentRefusals
from sidegate.telemetry.space_saving import CAPACITY, KeySummary
from sidegate.telemetry.timeline import TrafficTimeline
from sidegate.telemetry.top_refused import RefusedKeys, TopRefused
from sidegate.telemetry.totals import Totals, totals_of

WorkerState = dict[str, Any]
# A worker's state and identity; plain values, fit for JSON.
WorkerReport = dict[str, Any]


@dataclass(slots=True)
class OtherWorkers:
    """What the parent last sent about the other workers: merged metrics, dead workers included, and reports."""

    metrics: Snapshot = field(default_factory=list)
    reports: Sequence[WorkerReport] = ()

    def totals(self) -> Totals:
        """Their counts."""
        return totals_of(families(self.metrics))

    def refused(self) -> list[RefusedKeys]:
        """The keys that each refused most."""
        return [
            KeySummary(
                {(policy, bucket): times for policy, bucket, times, _ in each["refused"]},
                {(policy, bucket): error for policy, bucket, _, error in each["refused"]},
                each["missed"],
            )
            for each in self.reports
        ]


class WorkersView:
    """Figures of the whole sidecar: this worker's and those of the others. `state` returns this worker's state.

    `number` of `count`, from 0; without a number there is only this worker.
    """

    def __init__(
        self,
        metrics: Metrics,
        top_refused: TopRefused,
        recent_refusals: RecentRefusals,
        state: Callable[[], WorkerState],
        number: int | None = None,
        count: int = 1,
    ) -> None:
        self._metrics = metrics
        self._top_refused = top_refused
        self._recent_refusals = recent_refusals
        self._state = state
        self._number = number
        self._count = count
        self._others: OtherWorkers | None = None
        self._other_totals = Totals()
        self.timeline = TrafficTimeline(self.totals)

    def report(self) -> dict[str, object]:
        """This worker's report for the others."""
        refused = self._top_refused.summary().cut(CAPACITY)
        entries = [(*key, times, refused.errors[key]) for key, times in refused.times.items()]
        report = {**self._own_report(), "refused": entries, "missed": refused.missed}
        report["refusals"] = self._recent_refusals.report()
        return {"metrics": snapshot(self._metrics.families()), "report": utf8_safe_content(report)}

    def receive(self, metrics: Snapshot, reports: Sequence[WorkerReport]) -> None:
        """Store what the parent sent. The first message contains counts from before this worker started."""
        first, self._others = self._others is None, OtherWorkers(metrics, reports)
        self._other_totals = self._others.totals()
        for each in reports:
            self._recent_refusals.take(each["worker"], each["pid"], each["refusals"])
        if first:
            self.timeline.skip(self._other_totals)

    def totals(self) -> Totals:
        """Counts of all workers."""
        return self._metrics.totals() + self._other_totals

    def exposition(self, *, openmetrics: bool = False) -> bytes:
        """Metrics of all workers, in Prometheus' text format or OpenMetrics."""
        own: Iterable[Metric] = self._metrics.families()
        if self._number is not None:
            own = families(merged([snapshot(own), self._known.metrics]))
        return exposition_of(own, openmetrics=openmetrics)

    def top(self, count: int) -> dict[str, object]:
        """The keys refused most."""
        return self._top_refused.page(count, self._known.refused())

    def refusals(self, number: int) -> dict[str, object]:
        """Refusals after entry `number`, and the number of the last one."""
        last, entries = self._recent_refusals.after(number)
        return {"last": last, "refusals": entries}

    def state(self) -> WorkerState:
        """The present state of the sidecar, with one entry per worker if there are several."""
        if self._number is None:
            return self._state()
        reports = self._reports()
        workers = [_summary(number, reports.get(number)) for number in range(self._count)]
        return {**combined(list(reports.values()), reports[self._number]), "workers": workers}

    def configs(self) -> list[dict[str, object]]:
        """Hash and state of each worker's configuration; empty with one worker."""
        if self._number is None:
            return []
        return [{"worker": number, **report["state"]["config"]} for number, report in sorted(self._reports().items())]

    @property
    def _known(self) -> OtherWorkers:
        return self._others or OtherWorkers()

    def _reports(self) -> dict[int, WorkerReport]:
        return {each["worker"]: each for each in [self._own_report(), *self._known.reports]}

    def _own_report(self) -> WorkerReport:
        # All processes of one machine share this clock.
        return {"worker": self._number, "pid": os.getpid(), "reported_s": time.monotonic(), "state": self._state()}


def combined(reports: Sequence[WorkerReport], own: WorkerReport) -> WorkerState:
    """The state of the sidecar: sums, and the worst worker's value for what cannot be added."""
    states: list[Mapping[str, Any]] = [each["state"] for each in reports]
    stale = [state["config"] for state in states if state["config"]["status"] != "ok"]
    return {
        **own["state"],
        "store": max((state["store"] for state in states), key=_severity),
        "in_flight": sum(state["in_flight"] for state in states),
        "waiting": sum(state["waiting"] for state in states),
        "places": dict(sum((Counter(state["places"]) for state in states), Counter())),
        "connections": sum(state["connections"] for state in states),
        "config": max(stale, key=lambda config: config["since"]) if stale else own["state"]["config"],
    }


def _severity(store: Mapping[str, Any]) -> tuple[bool, int]:
    return not store["up"], sum(each["state"] != "closed" for each in store["breakers"])


def _summary(number: int, report: WorkerReport | None) -> dict[str, object]:
    if report is None:
        return {"worker": number, "pid": None, "heard_s": None}
    state = report["state"]
    return {
        "worker": number,
        "pid": report["pid"],
        "heard_s": round(max(0.0, time.monotonic() - report["reported_s"]), 1),
        "store": state["store"],
        "in_flight": state["in_flight"],
        "connections": state["connections"],
        "hash": state["config"]["hash"],
        "config": state["config"]["status"],
    }
