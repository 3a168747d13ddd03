"""Aggregates metrics of several worker processes into one exposition. Pure.

A snapshot holds metric families as plain lists, fit for JSON: name, type, help, and samples of name, labels, value and,
if there is one, exemplar (its labels, value and Unix time).
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

Snapshot = list[list[object]]

# Gauges that are not summed: a sidecar is as healthy as its least healthy worker.
_LEAST = ("_up", "_info", "_timestamp_seconds", "_start_time_seconds", "_max_fds")
_MOST = ("_draining", "_stale", "_breaker_state", "_store_keys", "_store_proxies")


def snapshot(families: Iterable[Metric]) -> Snapshot:
    """The families with their values now."""
    return [
        [
            family.name,
            family.type,
            family.documentation,
            [_sample(each.name, each.labels, each.value, each.exemplar) for each in family.samples],
        ]
        for family in families
    ]


def families(taken: Snapshot) -> Iterator[Metric]:
    """The families of a snapshot."""
    for name, kind, text, samples in taken:
        family = Metric(str(name), str(text), str(kind))
        for sample_name, labels, value, *exemplar in samples:  # type: ignore[attr-defined]  # as `snapshot` wrote it
            family.add_sample(sample_name, labels, value, exemplar=Exemplar(*exemplar[0]) if exemplar else None)
        yield family


def merged(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot of all: values of equal name and labels are added; some gauges take their minimum or maximum."""
    found: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    exemplars: dict[tuple[str, tuple[tuple[str, str], ...]], Exemplar] = {}
    for taken in snapshots:
        for family in families(taken):
            found.setdefault(family.name, family)
            known = values.setdefault(family.name, {})
            join = _joining(family)
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                known[key] = join(known[key], sample.value) if key in known else sample.value
                if sample.exemplar is not None:
                    exemplars[key] = sample.exemplar
    return [
        [
            name,
            family.type,
            family.documentation,
            [
                _sample(each, dict(labels), value, exemplars.get((each, labels)))
                for (each, labels), value in values[name].items()
            ],
        ]
        for name, family in found.items()
    ]


def _sample(name: str, labels: Mapping[str, str], value: float, exemplar: Exemplar | None) -> list[object]:
    given = [[exemplar.labels, exemplar.value, exemplar.timestamp]] if exemplar else []
    return [name, labels, value, *given]


def _joining(family: Metric) -> Callable[[float, float], float]:
    if family.type == "info" or (family.type == "gauge" and family.name.endswith(_LEAST)):
        return min
    return max if family.type == "gauge" and family.name.endswith(_MOST) else operator.add


def exposition_of(metrics: Iterable[Metric], *, openmetrics: bool = False) -> bytes:
    """Families in Prometheus' text format, or in OpenMetrics 1.0, which has exemplars."""
    registry = CollectorRegistry()
    registry.register(_GivenMetrics(list(metrics)))
    if not openmetrics:
        return generate_latest(registry)
    text: bytes = generate_openmetrics(registry)  # type: ignore[no-untyped-call]
    return text


class _GivenMetrics(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def without_gauges(taken: Snapshot) -> Snapshot:
    """The part of a snapshot that remains valid after its process has ended: counters and histograms."""
    return [family for family in taken if family[1] not in ("gauge", "info")]
