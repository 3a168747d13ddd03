"""The metrics: plain integers on the way of a request, turned into Prometheus' format when somebody asks.

Labels come from the configuration and from closed sets, never from a request. docs/operations.md says what each means.
"""

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import sidegate
from sidegate.decision.record import Record, StoreCall
from sidegate.decision.verdict import Answer, Verdict
from sidegate.telemetry.histogram import BATCH_SIZES, DURATIONS_S, Histogram
from sidegate.telemetry.outcomes import policy_outcomes

_PASS = Answer.PASS

# Bounds the lists of values that histograms have noted; sorting so many at once takes less than a millisecond.
MOST_UNSETTLED = 4096


class Readings(NamedTuple):
    """What is read when somebody asks: name (without prefix) → (help, function); edits of the configuration by result,
    and its hash; states of breakers by node, where each node of the store has one.
    """

    gauges: Mapping[str, tuple[str, Callable[[], float]]]
    counters: Mapping[str, tuple[str, Callable[[], float]]]
    reloads: Mapping[str, int]
    config_hash: Callable[[], str]
    store_nodes: Callable[[], Mapping[str, int]] = dict


class Counted:
    """How often verdicts of one shape came, and what that means for each policy."""

    __slots__ = ("count", "decided_by", "outcomes")

    def __init__(self, verdict: Verdict) -> None:
        self.count = 0
        self.decided_by = verdict.decided_by
        self.outcomes = policy_outcomes(verdict)


class Metrics(Collector):
    """Counts records and calls of the store."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings
        # Plain dicts: a Counter's missing keys cost a call in Python.
        self._shapes: dict[object, Counted] = {}
        self._errors: dict[str, int] = {}
        self._store_failures: dict[str, int] = {}
        self._classes = [0] * 10
        self._unsettled = 0
        self._decision = Histogram(DURATIONS_S)
        self._upstream = Histogram(DURATIONS_S)
        self._request = Histogram(DURATIONS_S)
        self._note_decision, self._note_upstream = self._decision.note, self._upstream.note
        self._note_request = self._request.note
        self._round_trip = Histogram(DURATIONS_S)
        self._batch_size = Histogram(BATCH_SIZES)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def count(self, record: Record) -> None:
        """Count one request."""
        _, status, verdict, error, decision_s, total_s, _ = record
        self._classes[status // 100] += 1
        self._note_request(total_s)
        self._unsettled += 1
        if self._unsettled >= MOST_UNSETTLED:
            self._settle()
        if verdict is not None:
            answer, decided_by, applied, levels, _ = verdict
            passes = answer is _PASS
            self._note_decision(decision_s)
            if passes:
                self._note_upstream(total_s - decision_s)
            # All that can tell one verdict from another here, without working out the outcomes each time.
            shape: object
            if len(applied) == 1:
                level = levels[0]
                shape = (applied[0].policy.name, decided_by, passes, level and level.enough)
            else:
                shape = (decided_by, *policy_outcomes(verdict))
            counted = self._shapes.get(shape)
            if counted is None:
                counted = self._shapes[shape] = Counted(verdict)
            counted.count += 1
        if error:
            self._errors[error] = self._errors.get(error, 0) + 1

    def count_call(self, call: StoreCall) -> None:
        """Count one call of the store."""
        requests, took_s, failure = call
        self._batch_size.note(requests)
        if failure:
            self._store_failures[failure] = self._store_failures.get(failure, 0) + 1
        else:
            self._round_trip.note(took_s)
        self._unsettled += 1
        if self._unsettled >= MOST_UNSETTLED:
            self._settle()

    def outcomes(self) -> Counter[tuple[str, str]]:
        """Requests by policy and outcome."""
        found: Counter[tuple[str, str]] = Counter()
        for counted in self._shapes.values():
            for policy, outcome in counted.outcomes:
                found[policy, str(outcome)] += counted.count
        return found

    def round_trips(self) -> tuple[int, float]:
        """How many calls the store has answered, and the seconds that this took it in all."""
        return sum(self._round_trip.counts()), self._round_trip.total

    def _settle(self) -> None:
        self._unsettled = 0
        for histogram in (self._decision, self._upstream, self._request, self._round_trip, self._batch_size):
            histogram.settle()

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def families(self) -> Iterable[Metric]:
        """All metrics, those of the process among them."""
        return self._registry.collect()

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        yield from self._requests()
        yield from self._durations()
        for name, (text, read) in self._readings.counters.items():
            yield CounterMetricFamily(f"sidegate_{name}", text, value=read())
        for name, (text, read) in self._readings.gauges.items():
            yield GaugeMetricFamily(f"sidegate_{name}", text, value=read())
        if nodes := self._readings.store_nodes():
            yield _of_nodes(nodes)
        reloads = self._readings.reloads
        yield _counter("config_reloads", "Edits of the configuration, by what became of them.", "result", reloads)
        config = {"hash": self._readings.config_hash()}
        yield InfoMetricFamily("sidegate_config", "The configuration in force: a hash of all that decides.", config)
        build = {"version": sidegate.__version__, "python": platform.python_version()}
        yield InfoMetricFamily("sidegate_build", "What runs.", build)

    def _requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "sidegate_requests", "Requests by policy that applied, and what it decided.", labels=("policy", "outcome")
        )
        for labels, count in self.outcomes().items():
            requests.add_metric(labels, count)
        yield requests
        yield _counter("errors", "Requests that failed, by reason.", "reason", self._errors)
        places: Counter[str] = Counter()
        for counted in self._shapes.values():
            places[counted.decided_by] += counted.count
        yield _counter("decisions", "Decisions by where they were made.", "decided_by", places)
        classes = {f"{number}xx": count for number, count in enumerate(self._classes) if count}
        yield _counter("responses", "Answers by class of status.", "class", classes)
        yield _counter("store_failures", "Calls of the store that decided nothing.", "reason", self._store_failures)

    def _durations(self) -> Iterator[Metric]:
        for name, text, histogram in (
            ("request_duration_seconds", "From a request's head to the end of its answer.", self._request),
            ("decision_duration_seconds", "From a request's head to its verdict.", self._decision),
            ("upstream_duration_seconds", "From the verdict to the end of the application's answer.", self._upstream),
            ("store_round_trip_seconds", "From a call of the store to its reply.", self._round_trip),
            ("store_batch_requests", "Requests decided in one call of the store.", self._batch_size),
        ):
            yield HistogramMetricFamily(f"sidegate_{name}", text, histogram.cumulative(), histogram.total)


def _counter(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"sidegate_{name}", text, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family


def _of_nodes(states: Mapping[str, int]) -> Metric:
    text = "Whether a node of the store's Cluster is asked: as sidegate_store_breaker_state."
    family = GaugeMetricFamily("sidegate_store_node_breaker_state", text, labels=("node",))
    for node, state in states.items():
        family.add_metric((node,), state)
    return family
