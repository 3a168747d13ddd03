"""The soak: its arithmetic, and a short one on a real sidecar."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.soak import __main__ as soak
from benchmarks.soak.slope import Sample, settled, slope_per_hour
from benchmarks.soak.trouble import Trouble


def trouble(unexpected: Counter[str] | None = None) -> Trouble:
    made = Trouble(1, 2, Path("config.yaml"))
    made.unexpected = unexpected or Counter()
    return made


def samples(*files: int) -> list[Sample]:
    return [Sample(float(number), 60.0, count) for number, count in enumerate(files)]


def test_a_slope_is_that_of_the_straight_line_through_all_points() -> None:
    assert slope_per_hour([(0, 10.0), (1, 11.0), (2, 12.0)]) == pytest.approx(3600)
    assert slope_per_hour([(0, 10.0), (1, 12.0), (2, 10.0)]) == pytest.approx(0)
    assert slope_per_hour([(5, 10.0)]) == slope_per_hour([]) == 0


def test_a_rise_in_the_first_third_is_no_growth() -> None:
    assert [sample.files for sample in settled(samples(1, 2, 3, 3, 3, 3))] == [3, 3, 3, 3]


def test_statuses_of_all_threads_and_broken_connections_are_added_up() -> None:
    output = "statuses 200=5 429=2\nstatuses 200=3\n  Socket errors: connect 0, read 1, write 0, timeout 2\n"
    assert soak.statuses_in(output) == Counter({"200": 8, "429": 2, "broken connection": 3})


RIGHT = Counter({"200": 100, "429": 10, "500": 5})


def test_a_soak_fails_for_one_unexpected_answer_for_files_that_grow_and_for_traffic_that_was_not_mixed() -> None:
    assert soak.report(RIGHT, samples(40, 40, 45, 50, 50, 48), trouble(), 6) == 0
    assert soak.report(RIGHT + Counter({"503": 1}), samples(40, 40, 40), trouble(), 6) == 1
    assert soak.report(RIGHT, samples(40, 40, 40), trouble(Counter({"/break was answered 200": 1})), 6) == 1
    assert soak.report(RIGHT, samples(40, 40, 40, 50, 60, 70), trouble(), 6) == 1
    assert soak.report(Counter({"200": 100}), samples(40, 40, 40), trouble(), 6) == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: apt-get install wrk")
@pytest.mark.long
def test_a_short_soak_sees_nothing_unexpected(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["3"]) == 0
    assert "unexpected: nothing" in capsys.readouterr().out
