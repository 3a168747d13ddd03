"""The arithmetic of how much several workers could serve."""

import pytest

from benchmarks.bench.cores import Served, times


def test_the_capacity_is_bounded_by_the_busiest_process() -> None:
    assert Served(1000, [10.0, 50_000.0]).possible == 20_000
    assert Served(1000, [10.0, 25_000.0, 25_000.0]).possible == 40_000
    assert Served(1000, [10.0, 40_000.0, 10_000.0]).possible == 25_000
    assert Served(1000, [10_000.0, 40_000.0]).request_us == 50


def test_workers_are_compared_round_by_round() -> None:
    one = [Served(1000, [50_000.0]), Served(1000, [100_000.0])]
    two = [Served(1000, [25_000.0, 25_000.0]), Served(1000, [60_000.0, 40_000.0])]
    found = times(one, two)
    assert [found.lowest, found.highest] == pytest.approx([5 / 3, 2])
