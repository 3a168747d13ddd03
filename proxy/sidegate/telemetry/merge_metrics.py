"""Metrics of several processes added up: what the workers of one sidecar tell together. Pure.

A snapshot is metric families as plain lists, fit for JSON: name, type, help, and samples of name, labels and value.
"""

import operator
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

Snapshot = list[list[object]]

# Of these gauges the sum means nothing: the sidecar is as well off as the worker that is worst off.
_LEAST = ("_up", "_info", "_timestamp_seconds", "_start_time_seconds", "_max_fds")
_MOST = ("_draining", "_stale", "_breaker_state", "_store_keys", "_store_proxies")


def snapshot(families: Iterable[Metric]) -> Snapshot:
    """Families as they stand now."""
    return [
        [
            family.name,
            family.type,
            family.documentation,
            [[each.name, each.labels, each.value] for each in family.samples],
        ]
        for family in families
    ]


def families(taken: Snapshot) -> Iterator[Metric]:
    """A snapshot, turned back."""
    for name, kind, text, samples in taken:
        family = Metric(str(name), str(text), str(kind))
        for sample_name, labels, value in samples:  # type: ignore[attr-defined]  # as `snapshot` wrote it
            family.add_sample(sample_name, labels, value)
        yield family


def merged(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot of all: values of the same name and labels added up, but for gauges that are worth their least."""
    found: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for taken in snapshots:
        for family in families(taken):
            found.setdefault(family.name, family)
            known = values.setdefault(family.name, {})
            join = _joining(family)
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                known[key] = join(known[key], sample.value) if key in known else sample.value
    return [
        [
            name,
            family.type,
            family.documentation,
            [[each, dict(labels), value] for (each, labels), value in values[name].items()],
        ]
        for name, family in found.items()
    ]


def _joining(family: Metric) -> Callable[[float, float], float]:
    if family.type == "info" or (family.type == "gauge" and family.name.endswith(_LEAST)):
        return min
    return max if family.type == "gauge" and family.name.endswith(_MOST) else operator.add


def exposition_of(metrics: Iterable[Metric]) -> bytes:
    """Families in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Given(list(metrics)))
    return generate_latest(registry)


class _Given(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def without_gauges(taken: Snapshot) -> Snapshot:
    """What of a process's figures outlives it: what was counted."""
    return [family for family in taken if family[1] not in ("gauge", "info")]
