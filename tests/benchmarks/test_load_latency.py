"""Percentiles, histogram and bars, by tables."""

import pytest

from benchmarks.load_latency import RELATIVE_ERROR, Latencies, bar, counts, edges, milliseconds


def recorded(*seconds: float) -> Latencies:
    latencies = Latencies()
    for value in seconds:
        latencies.record(value)
    return latencies


@pytest.mark.parametrize(
    ("seconds", "percent", "expected"),
    [
        ([], 50, 0.0),
        ([0.004], 99.9, 0.004),
        ([number / 1000 for number in range(1, 101)], 50, 0.050),
        ([number / 1000 for number in range(1, 101)], 99, 0.099),
        ([number / 1000 for number in range(1, 101)], 99.9, 0.100),
        ([0.001] * 99 + [5.0], 99, 0.001),
        ([0.0], 50, 0.0),
        ([86_400.0], 50, 3600.0),  # longer than an hour counts as an hour
    ],
)
def test_a_percentile_is_the_value_that_its_share_does_not_exceed(
    seconds: list[float], percent: float, expected: float
) -> None:
    assert recorded(*seconds).percentile(percent) == pytest.approx(expected, rel=2 * RELATIVE_ERROR, abs=1e-6)


@pytest.mark.parametrize("exponent", range(-60, 36))
def test_a_single_duration_among_others_is_read_back_within_the_stated_error(exponent: int) -> None:
    value = 10 ** (exponent / 10)
    found = recorded(1e-6, value, 3600.0).percentile(50)
    assert abs(found - value) <= value * RELATIVE_ERROR


def test_memory_does_not_grow_with_the_number_of_durations() -> None:
    spread = recorded(*(1.5**power * 1e-6 for power in range(60)), *(0.001 + number / 1e5 for number in range(1000)))
    assert spread.count == 1060
    assert len(spread.values()) < 300


@pytest.mark.parametrize(
    ("seconds", "upper"),
    [
        ([], []),
        ([0.0015], [0.002]),
        ([0.0015, 0.012], [0.002, 0.005, 0.01, 0.02]),
        ([1e-9], [1e-6]),
    ],
)
def test_histogram_steps_span_the_observed_values(seconds: list[float], upper: list[float]) -> None:
    assert edges([(value, 1) for value in seconds]) == pytest.approx(upper)


def test_every_duration_is_in_one_step() -> None:
    assert counts([(0.001, 3), (0.002, 2), (0.0021, 1), (9.0, 4)], [0.001, 0.002, 0.005]) == [3, 2, 5]
    assert counts([], []) == []


@pytest.mark.parametrize(
    ("share", "blocks", "ascii_only"),
    [
        (1.0, "████████", "########"),
        (0.5, "████", "####"),
        (0.0, "", ""),
        (0.001, "▏", "#"),
        (0.9, "███████▎", "#######"),
    ],
)
def test_a_bar_shows_its_share_and_whatever_is_not_zero(share: float, blocks: str, ascii_only: str) -> None:
    assert bar(share, 8, unicode=True) == blocks
    assert bar(share, 8, unicode=False) == ascii_only


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.000123, "0.123"), (0.00123, "1.23"), (0.0123, "12.3"), (0.123, "123"), (12.3, "12300")]
)
def test_milliseconds_keep_three_digits(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text
