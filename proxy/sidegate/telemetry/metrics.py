"""Metrics of requests and store calls: plain integers while requests run, Prometheus families when scraped.

Label values come from the configuration and from closed sets, never from a request. docs/operations.md documents each
metric.
"""

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import sidegate
from sidegate.decision.policy import OnStoreFailure, Policy
from sidegate.decision.reading import Reading
from sidegate.decision.record import Record, StoreCall
from sidegate.decision.verdict import Answer, DecisionSource, Outcome, Verdict
from sidegate.telemetry.histogram import BATCH_SIZES, DURATIONS_S, Histogram
from sidegate.telemetry.outcomes import policy_outcomes
from sidegate.telemetry.totals import Totals

_PASS, _REFUSE = Answer.PASS, Answer.REFUSE

# Bounds the lists of values that histograms have noted; sorting so many at once takes less than a millisecond.
MOST_UNSETTLED = 4096
# Places in the list of histograms.
_REQUEST, _DECISION, _UPSTREAM, _STORE, _BATCH = range(5)
# Reasons that StoreUnavailable has beside the first words of the store's own errors.
_STORE_REASONS = ("timeout", "connect", "connection_lost", "protocol")
_OF_FAILURE = {
    OnStoreFailure.DENY: (Outcome.STORE_DENIED,),
    OnStoreFailure.ALLOW: (Outcome.STORE_ALLOWED,),
    OnStoreFailure.LOCAL: (Outcome.LOCAL_ALLOWED, Outcome.LOCAL_REFUSED),
}


class VerdictCount:
    """Number of verdicts of one shape, and the outcome that the shape has for each policy."""

    __slots__ = ("count", "decided_by", "outcomes", "refuses")

    def __init__(self, verdict: Verdict) -> None:
        self.count = 0
        self.decided_by = verdict.decided_by
        self.refuses = verdict.answer is _REFUSE
        self.outcomes = policy_outcomes(verdict)


class Metrics(Collector):
    """Counts records and store calls. Counters with labels are exported from 0 for all values known beforehand.

    `policies` returns the active policies, `config_hash` the active configuration's hash; `error_reasons` are the
    possible values of `Record.error`. `add` registers the metrics that other objects declare.
    """

    def __init__(
        self, policies: Callable[[], Sequence[Policy]], config_hash: Callable[[], str], error_reasons: Iterable[str]
    ) -> None:
        self._policies = policies
        self._config_hash = config_hash
        self._readings: list[Reading] = []
        # Plain dicts: a Counter's missing keys cost a call in Python.
        self._shapes: dict[object, VerdictCount] = {}
        self._errors = dict.fromkeys(error_reasons, 0)
        self._store_failures = dict.fromkeys(_STORE_REASONS, 0)
        self._statuses = [0] * 1000
        self._error_statuses: dict[int, int] = {}
        self._unsettled = 0
        self._histograms = [*(Histogram(DURATIONS_S) for _ in range(4)), Histogram(BATCH_SIZES)]
        self._note_request, self._note_decision, self._note_upstream, self._note_round_trip = (
            each.note for each in self._histograms[:_BATCH]
        )
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def add(self, readings: Iterable[Reading]) -> None:
        """Export these metrics too."""
        self._readings.extend(readings)

    def count(self, record: Record) -> None:
        """Count one request."""
        _, status, verdict, error, decision_s, total_s, _ = record
        self._statuses[status] += 1
        self._note_request(total_s)
        self._unsettled += 1
        if self._unsettled >= MOST_UNSETTLED:
            self._settle()
        if verdict is not None:
            answer, decided_by, applied, levels, _, _, _ = verdict
            passes = answer is _PASS
            self._note_decision(decision_s)
            if passes:
                self._note_upstream(total_s - decision_s)
            # Everything that distinguishes verdicts here, without computing the outcomes each time.
            shape: object
            if len(applied) == 1:
                level = levels[0]
                shape = (applied[0].policy.name, decided_by, passes, level and level.enough)
            else:
                shape = (decided_by, *policy_outcomes(verdict))
            counted = self._shapes.get(shape)
            if counted is None:
                counted = self._shapes[shape] = VerdictCount(verdict)
            counted.count += 1
        if error:
            self._errors[error] = self._errors.get(error, 0) + 1
            self._error_statuses[status] = self._error_statuses.get(status, 0) + 1

    def count_call(self, call: StoreCall) -> None:
        """Count one store call."""
        requests, took_s, failure = call
        self._histograms[_BATCH].note(requests)
        if failure:
            self._store_failures[failure] = self._store_failures.get(failure, 0) + 1
        else:
            self._note_round_trip(took_s)
        self._unsettled += 1
        if self._unsettled >= MOST_UNSETTLED:
            self._settle()

    def exemplify(self, trace_id: str, total_s: float) -> None:
        """Name the trace of a request that is counted as well, for OpenMetrics."""
        self._histograms[_REQUEST].exemplify(total_s, {"trace_id": trace_id})

    def totals(self) -> Totals:
        """All counts as they stand now."""
        return Totals(
            self._outcomes(),
            self._responses(),
            Counter({reason: count for reason, count in self._errors.items() if count}),
            self._sources(),
            self._refusals(),
            self._application_errors(),
            *(self._histograms[number].counts() for number in (_REQUEST, _UPSTREAM, _STORE)),
        )

    def _sources(self) -> Counter[str]:
        """Requests by the source of their decision."""
        sources: Counter[str] = Counter()
        for counted in self._shapes.values():
            sources[str(counted.decided_by)] += counted.count
        return sources

    def families(self) -> Iterable[Metric]:
        """All metrics, including those of the process."""
        return self._registry.collect()

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        yield from self._counters()
        histograms = self._histograms
        for name, text, histogram in (
            ("request_duration_seconds", "From a request's head to the end of its answer.", histograms[_REQUEST]),
            ("decision_duration_seconds", "From a request's head to its verdict.", histograms[_DECISION]),
            (
                "upstream_duration_seconds",
                "From the verdict to the end of the application's answer.",
                histograms[_UPSTREAM],
            ),
            ("store_round_trip_seconds", "From a store call to its reply.", histograms[_STORE]),
            ("store_batch_requests", "Requests decided in one store call.", histograms[_BATCH]),
        ):
            yield HistogramMetricFamily(f"sidegate_{name}", text, histogram.cumulative(), histogram.total)
        for reading in self._readings:
            if (family := _family(reading)) is not None:
                yield family
        config = {"hash": self._config_hash()}
        yield InfoMetricFamily("sidegate_config", "Hash of the active configuration's policies.", config)
        build = {"version": sidegate.__version__, "build": sidegate.build(), "python": platform.python_version()}
        yield InfoMetricFamily("sidegate_build", "Version and build of the sidecar, version of Python.", build)

    def _counters(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "sidegate_requests", "Requests by policy that applied, and its outcome.", labels=("policy", "outcome")
        )
        known = {(policy.name, str(outcome)): 0 for policy in self._policies() for outcome in _possible(policy)}
        for labels, count in ({("none", "allowed"): 0} | known | self._outcomes()).items():
            requests.add_metric(labels, count)
        yield requests
        yield _counter("errors", "Requests that failed, by reason.", "reason", self._errors)
        sources = {**dict.fromkeys(map(str, DecisionSource), 0), **self._sources()}
        yield _counter("decisions", "Decisions by source.", "decided_by", sources)
        classes = {**dict.fromkeys(("2xx", "3xx", "4xx", "429", "5xx"), 0), **self._responses()}
        yield _counter("responses", "Answers by class of status; 429 is not part of 4xx.", "class", classes)
        yield _counter("store_failures", "Store calls that failed, by reason.", "reason", self._store_failures)
        text = "Requests that a policy refused (answered 429)."
        yield CounterMetricFamily("sidegate_refusals", text, value=self._refusals())
        text = "Answers with status 5xx that the application sent."
        yield CounterMetricFamily("sidegate_upstream_errors", text, value=self._application_errors())

    def _outcomes(self) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for counted in self._shapes.values():
            for policy, outcome in counted.outcomes:
                found[policy, str(outcome)] += counted.count
        return found

    def _responses(self) -> Counter[str]:
        statuses = self._statuses
        found = Counter({f"{digit}xx": sum(statuses[digit * 100 : digit * 100 + 100]) for digit in range(10)})
        found["429"] = statuses[429]
        found["4xx"] -= statuses[429]
        return +found

    def _refusals(self) -> int:
        return sum(counted.count for counted in self._shapes.values() if counted.refuses)

    def _application_errors(self) -> int:
        own = sum(count for status, count in self._error_statuses.items() if 500 <= status < 600)
        return sum(self._statuses[500:600]) - own

    def _settle(self) -> None:
        self._unsettled = 0
        for histogram in self._histograms:
            histogram.settle()


def _possible(policy: Policy) -> Iterator[Outcome]:
    """The outcomes that a policy of the configuration can have."""
    yield Outcome.ALLOWED
    if not policy.exempt:
        yield Outcome.SHADOW_REFUSED if policy.shadow else Outcome.REFUSED
        yield from () if policy.shadow else _OF_FAILURE[policy.on_store_failure]


def _counter(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"sidegate_{name}", text, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family


def _family(reading: Reading) -> Metric | None:
    """None for a metric with a label that has no values at present."""
    kind = CounterMetricFamily if reading.is_counter else GaugeMetricFamily
    name, value = f"sidegate_{reading.name}", reading.read()
    if not isinstance(value, Mapping):
        return kind(name, reading.help, value=value)
    family = kind(name, reading.help, labels=(reading.label,))
    for label, each in value.items():
        family.add_metric((label,), each)
    return family if value else None
