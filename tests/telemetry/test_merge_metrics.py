"""Metrics of several processes, added up."""

import json

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
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
    taken = [json.loads(json.dumps(snapshot(each))) for each in workers]  # as it goes between processes
    return exposition_of(families(merged(taken))).decode()


def test_what_workers_counted_is_added_up() -> None:
    text = text_of(worker(3, 2, 1), worker(4, 5, 1))
    assert 'sidegate_requests_total{policy="wide"} 7.0' in text
    assert "sidegate_client_connections 7.0" in text


def test_the_store_is_up_only_where_every_worker_has_it() -> None:
    assert "sidegate_store_up 0.0" in text_of(worker(0, 0, 1), worker(0, 0, 0))
    assert "sidegate_store_up 1.0" in text_of(worker(0, 0, 1), worker(0, 0, 1))


def test_help_and_type_are_told_once() -> None:
    text = text_of(worker(3, 2, 1), worker(4, 5, 1))
    assert text.count("# TYPE sidegate_requests_total counter") == 1
    assert text.count("# HELP sidegate_requests_total Requests.") == 1


def test_of_a_worker_that_has_died_its_counts_stay_and_its_gauges_go() -> None:
    left = without_gauges(snapshot(worker(3, 2, 0)))
    text = exposition_of(families(merged([left, snapshot(worker(4, 5, 1))]))).decode()
    assert 'sidegate_requests_total{policy="wide"} 7.0' in text
    assert "sidegate_client_connections 5.0" in text
    assert "sidegate_store_up 1.0" in text
