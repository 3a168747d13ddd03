"""Histograms count each value in the first bucket whose bound is not below it; quantiles are estimated from them."""

import pytest
from sidegate.telemetry.histogram import Histogram, quantile


def test_a_value_on_a_bound_belongs_to_its_bucket_and_one_above_all_to_infinity() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.0, 0.1, 0.100001, 1.0, 7.5):
        histogram.note(value)
    assert histogram.cumulative() == [("0.1", 2), ("1", 4), ("+Inf", 5)]
    assert histogram.total == pytest.approx(8.700001)


def test_values_noted_before_and_after_settling_are_counted_alike() -> None:
    histogram = Histogram((1, 2))
    for value in (1, 2, 3):
        histogram.note(value)
    histogram.settle()
    histogram.note(1.5)
    assert (histogram.counts(), histogram.total) == ((1, 2, 1), 7.5)


@pytest.mark.parametrize(
    ("counts", "q", "value"),
    [
        ((0, 0, 0), 0.5, None),
        ((4, 0, 0), 0.5, 0.5),  # linear within the first bucket, 0 to 1
        ((2, 2, 0), 0.75, 1.5),
        ((2, 2, 0), 0.5, 1.0),
        ((0, 100, 0), 0.99, 1.99),
        ((0, 0, 3), 0.5, 2),  # above all bounds
    ],
)
def test_a_quantile_is_linear_within_its_bucket(counts: tuple[int, ...], q: float, value: float | None) -> None:
    found = quantile(counts, q, (1, 2))
    assert found == (None if value is None else pytest.approx(value))
