"""The metrics: plain integers on the way of a request, turned into Prometheus' format when somebody asks.

Labels come from the configuration and from closed sets, never from a request.
"""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.decision.record import Record
from proxy.ops.outcomes import policy_outcomes


class Metrics(Collector):
    """Counts records. `gauges` are read when asked: name (without prefix) → (help, function)."""

    def __init__(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        self._gauges = gauges
        # Plain dicts: a Counter's missing keys cost a call in Python.
        self._outcomes: dict[tuple[str, str], int] = {}
        self._errors: dict[str, int] = {}
        self._decided_by: dict[str, int] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def count(self, record: Record) -> None:
        """Count one request."""
        verdict = record.verdict
        if verdict is not None:
            outcomes = self._outcomes
            for entry in policy_outcomes(verdict):
                outcomes[entry] = outcomes.get(entry, 0) + 1
            places, place = self._decided_by, verdict.decided_by
            places[place] = places.get(place, 0) + 1
        if record.error:
            self._errors[record.error] = self._errors.get(record.error, 0) + 1

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        requests = CounterMetricFamily(
            "sidegate_requests", "Requests by policy that applied, and what it decided.", labels=("policy", "outcome")
        )
        for labels, count in self._outcomes.items():
            requests.add_metric(labels, count)
        yield requests
        errors = CounterMetricFamily("sidegate_errors", "Requests that failed, by reason.", labels=("reason",))
        for reason, count in self._errors.items():
            errors.add_metric((reason,), count)
        yield errors
        decisions = CounterMetricFamily(
            "sidegate_decisions", "Decisions by where they were made.", labels=("decided_by",)
        )
        for place, count in self._decided_by.items():
            decisions.add_metric((place,), count)
        yield decisions
        for name, (text, read) in self._gauges.items():
            yield GaugeMetricFamily(f"sidegate_{name}", text, value=read())
