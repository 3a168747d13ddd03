"""Metrics of several processes, added up."""

import json

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from sidegate.telemetry.histogram import Histogram
from sidegate.telemetry.merge_metrics import exposition_of, families, merged, snapshot, without_gauges


def worker(allowed: int, connections: int, store_up: int) -> list[Metric]:
    requests = CounterMetricFamily("sidegate_requests", "Requests.", labels=("policy",))
    requests.add_metric(("wide",), allowed)
    return [
        requests,
        GaugeMetricFamily("sidegate_client_connections", "Open.", value=connections),
        GaugeMetricFamily("sidegate_store_up", "Connected.", value=store_up),
    ]


def text_of(*workers: list[Metric]) -> str:
    taken = [json.loads(json.dumps(snapshot(each))) for each in workers]  # as sent between processes
    return exposition_of(families(merged(taken))).decode()


def test_counts_of_workers_are_added_up() -> None:
    text = text_of(worker(3, 2, 1), worker(4, 5, 1))
    assert 'sidegate_requests_total{policy="wide"} 7.0' in text
    assert "sidegate_client_connections 7.0" in text


def test_the_store_is_up_only_if_every_worker_is_connected() -> None:
    assert "sidegate_store_up 0.0" in text_of(worker(0, 0, 1), worker(0, 0, 0))
    assert "sidegate_store_up 1.0" in text_of(worker(0, 0, 1), worker(0, 0, 1))


def test_help_and_type_occur_once() -> None:
    text = text_of(worker(3, 2, 1), worker(4, 5, 1))
    assert text.count("# TYPE sidegate_requests_total counter") == 1
    assert text.count("# HELP sidegate_requests_total Requests.") == 1


def test_counts_of_a_dead_worker_remain_and_its_gauges_do_not() -> None:
    left = without_gauges(snapshot(worker(3, 2, 0)))
    text = exposition_of(families(merged([left, snapshot(worker(4, 5, 1))]))).decode()
    assert 'sidegate_requests_total{policy="wide"} 7.0' in text
    assert "sidegate_client_connections 5.0" in text
    assert "sidegate_store_up 1.0" in text


def test_exemplars_survive_merging_and_appear_in_openmetrics_only() -> None:
    def worker_with_exemplar() -> list[Metric]:
        histogram = Histogram((0.1, 1.0))
        histogram.note(0.5)
        histogram.exemplify(0.5, {"trace_id": "ab"})
        return [HistogramMetricFamily("sidegate_x_seconds", "X.", histogram.cumulative(), histogram.total)]

    taken = [json.loads(json.dumps(snapshot(worker_with_exemplar()))) for _ in range(2)]
    text = exposition_of(families(merged(taken)), openmetrics=True).decode()
    assert 'sidegate_x_seconds_bucket{le="1"} 2.0 # {trace_id="ab"} 0.5' in text
    assert "trace_id" not in exposition_of(families(merged(taken))).decode()
