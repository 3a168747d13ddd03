"""The workers of one sidecar told of as one: what this one knows, and what the others last said of themselves.

Each worker reports once a second by way of the parent (workers/parent), and nobody waits for another: one that hangs is
told of as it was, with the age of its last word; of one that died what it had counted stays, by name of no worker. With
one worker there are no others.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import Metric

from sidegate.admin.access import escaped
from sidegate.telemetry.merge_metrics import Snapshot, exposition_of, families, merged, snapshot
from sidegate.telemetry.metrics import Metrics
from sidegate.telemetry.space_saving import CAPACITY, Summary
from sidegate.telemetry.timeline import Timeline
from sidegate.telemetry.top_refused import Refusals, Refused

Page = dict[str, object]

# What a worker says of itself: the part of a message that is not its metrics. Plain, fit for JSON.
Report = dict[str, Any]


@dataclass(slots=True)
class Others:
    """What the other workers said: their metrics added up, those of the dead among them, and a report of each."""

    metrics: Snapshot = field(default_factory=list)
    reports: Sequence[Report] = ()

    def outcomes(self) -> Counter[tuple[str, str]]:
        """Requests by policy and outcome."""
        found: Counter[tuple[str, str]] = Counter()
        for sample, labels, value in self._samples("sidegate_requests"):
            if sample == "sidegate_requests_total":
                found[labels["policy"], labels["outcome"]] += int(value)
        return found

    def round_trips(self) -> tuple[int, float]:
        """How many calls the store has answered them, and the seconds that this took it in all."""
        name = "sidegate_store_round_trip_seconds"
        values = {sample: value for sample, _, value in self._samples(name) if not sample.endswith("_bucket")}
        return int(values.get(f"{name}_count", 0)), values.get(f"{name}_sum", 0.0)

    def refused(self) -> list[Refused]:
        """The keys that each refused most."""
        return [
            Summary(
                {(policy, bucket): times for policy, bucket, times, _ in each["refused"]},
                {(policy, bucket): error for policy, bucket, _, error in each["refused"]},
                each["missed"],
            )
            for each in self.reports
        ]

    def _samples(self, name: str) -> list[tuple[str, Mapping[str, str], float]]:
        family = next((each for each in families(self.metrics) if each.name == name), None)
        return [(each.name, each.labels, each.value) for each in family.samples] if family else []


class Together:
    """Makes of this worker's figures and the others' one sidecar's. `state` is what is true of this worker now.

    `number` of `count`, from 0; without a number there is but this one.
    """

    def __init__(
        self,
        metrics: Metrics,
        refusals: Refusals,
        state: Callable[[], dict[str, Any]],
        number: int | None = None,
        count: int = 1,
    ) -> None:
        self._metrics = metrics
        self._refusals = refusals
        self._state = state
        self._number = number
        self._count = count
        self._others: Others | None = None
        self.timeline = Timeline(self)

    def report(self) -> dict[str, object]:
        """This worker's word for the others."""
        refused = self._refusals.summary().cut(CAPACITY)
        entries = [(*key, times, refused.errors[key]) for key, times in refused.times.items()]
        report = {**self._about_me(), "refused": entries, "missed": refused.missed}
        return {"metrics": snapshot(self._metrics.families()), "report": escaped(report)}

    def hear(self, metrics: Snapshot, reports: Sequence[Report]) -> None:
        """Take what the others said. The first word holds what was counted before this worker was there."""
        first, self._others = self._others is None, Others(metrics, reports)
        if first:
            self.timeline.pass_over(self._others)

    def outcomes(self) -> Counter[tuple[str, str]]:
        """Requests by policy and outcome."""
        return self._metrics.outcomes() + self._known.outcomes()

    def round_trips(self) -> tuple[int, float]:
        """How many calls the store has answered, and the seconds that this took it in all."""
        (calls, total_s), (others_calls, others_s) = self._metrics.round_trips(), self._known.round_trips()
        return calls + others_calls, total_s + others_s

    def exposition(self) -> bytes:
        """The metrics of all, in Prometheus' text format."""
        if self._number is None:
            return self._metrics.exposition()
        own: Iterable[Metric] = self._metrics.families()
        return exposition_of(families(merged([snapshot(own), self._known.metrics])))

    def top(self, count: int) -> Page:
        """The keys refused most."""
        return self._refusals.page(count, self._known.refused())

    def state(self) -> Page:
        """What is true at the moment, with the keys refused most. Of several workers each is told of by itself too."""
        if self._number is None:
            return {**self._state(), **self.top(10)}
        reports = self._reports()
        workers = [_in_short(number, reports.get(number)) for number in range(self._count)]
        return {**combined(list(reports.values()), reports[self._number]), "workers": workers, **self.top(10)}

    def configs(self) -> list[Page]:
        """Which configuration each worker has, and what was wrong with its last edit."""
        if self._number is None:
            return []
        return [{"worker": number, **report["state"]["config"]} for number, report in sorted(self._reports().items())]

    @property
    def _known(self) -> Others:
        return self._others or Others()

    def _reports(self) -> dict[int, Report]:
        return {each["worker"]: each for each in [self._about_me(), *self._known.reports]}

    def _about_me(self) -> Report:
        # The clock is the same in every process of one machine.
        return {"worker": self._number, "pid": os.getpid(), "told_s": time.monotonic(), "state": self._state()}


def combined(reports: Sequence[Report], mine: Report) -> dict[str, Any]:
    """The state of a sidecar: sums, and of what cannot be added the worker that is worst off."""
    states: list[Mapping[str, Any]] = [each["state"] for each in reports]
    stale = [state["config"] for state in states if state["config"]["status"] != "ok"]
    return {
        **mine["state"],
        "store": max((state["store"] for state in states), key=_trouble),
        "in_flight": sum(state["in_flight"] for state in states),
        "connections": sum(state["connections"] for state in states),
        "config": max(stale, key=lambda config: config["since"]) if stale else mine["state"]["config"],
    }


def _trouble(store: Mapping[str, Any]) -> tuple[bool, int]:
    return not store["up"], sum(each["state"] != "closed" for each in store["breakers"])


def _in_short(number: int, report: Report | None) -> Page:
    if report is None:
        return {"worker": number, "pid": None, "heard_s": None}
    state = report["state"]
    return {
        "worker": number,
        "pid": report["pid"],
        "heard_s": round(max(0.0, time.monotonic() - report["told_s"]), 1),
        "store": state["store"],
        "in_flight": state["in_flight"],
        "connections": state["connections"],
        "hash": state["config"]["hash"],
        "config": state["config"]["status"],
    }
