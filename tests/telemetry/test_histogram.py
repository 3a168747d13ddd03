"""Histograms count each value once, by the first bound that is not below it."""

import pytest
from sidegate.telemetry.histogram import Histogram


def test_a_value_on_a_bound_counts_below_it_and_one_past_the_last_counts_as_infinite() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.0, 0.1, 0.100001, 1.0, 7.5):
        histogram.note(value)
    assert histogram.cumulative() == [("0.1", 2), ("1", 4), ("+Inf", 5)]
    assert histogram.total == pytest.approx(8.700001)


def test_values_noted_before_and_after_a_settling_count_alike() -> None:
    histogram = Histogram((1, 2))
    for value in (1, 2, 3):
        histogram.note(value)
    histogram.settle()
    histogram.note(1.5)
    assert (histogram.counts(), histogram.total) == ((1, 2, 1), 7.5)
