"""What watching and extras cost: the arithmetic, and one short run of each on a real sidecar."""

import shutil

import pytest
from sidegate.config import Settings

from benchmarks.bench import extras, watching
from benchmarks.bench.watching import Pair

NEEDS_WRK = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: apt-get install wrk")


def test_the_ratio_is_that_of_adjacent_windows_so_that_a_slow_minute_hits_both() -> None:
    pairs = [Pair(20, 20.2), Pair(200, 202), Pair(20, 30)]
    first, second, third = watching.lines(pairs, (1_000.0, 6_000.0))
    assert "20.00 µs alone, 30.00 µs watched" in first
    assert "1.010, quartiles 1.010 to 1.255" in second
    assert "5.00 ms of CPU a second for being watched, 0.50 % of a core" in third


def test_what_an_extra_adds_is_taken_within_a_round() -> None:
    rounds = [{extras.PLAIN: 20.0, "ids": 21.0}, {extras.PLAIN: 200.0, "ids": 201.0}]
    plain, ids = extras.lines(rounds)
    assert plain == "without extras: 110.00 µs of CPU a request"
    assert ids == "ids: 111.00 µs of CPU a request, adds +1.00 µs, quartiles +1.00 to +1.00"


def test_every_extra_is_a_configuration_that_a_sidecar_takes() -> None:
    for sections in extras.extras(4318).values():
        Settings.model_validate({"policies": [], **sections})


@pytest.mark.slow
@NEEDS_WRK
def test_a_short_run_tells_what_being_watched_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert watching.main(["--pairs", "1", "--seconds", "1"]) == 0
    assert "watched / alone, pair by pair: " in capsys.readouterr().out


@pytest.mark.slow
@NEEDS_WRK
def test_a_short_run_tells_what_extras_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert extras.main(["--rounds", "1", "--seconds", "1"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{name}: " in printed for name in extras.extras(1))
