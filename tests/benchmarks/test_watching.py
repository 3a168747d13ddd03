"""Monitoring overhead, extras, calls and memory: the arithmetic, and a short run of each on a real sidecar."""

import shutil
import subprocess
import sys

import pytest
from sidegate.config import Settings
from sidegate.decision.request import path_part

from benchmarks.bench import extras, idle_memory, watching
from benchmarks.bench.calls import CallCounter
from benchmarks.bench.watching import Pair

NEEDS_WRK = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: apt-get install wrk")


def test_the_ratio_is_that_of_adjacent_windows_so_that_a_slow_minute_hits_both() -> None:
    pairs = [Pair(20, 20.2), Pair(200, 202), Pair(20, 30)]
    first, second, third = watching.lines(pairs, (1_000.0, 6_000.0))
    assert "20.00 µs alone, 30.00 µs watched" in first
    assert "1.010, quartiles 1.010 to 1.255" in second
    assert "5.00 ms of CPU a second for being watched, 0.50 % of a core" in third


def test_the_cost_of_an_extra_is_paired_within_a_round() -> None:
    rounds = [{extras.PLAIN: 20.0, "ids": 21.0}, {extras.PLAIN: 200.0, "ids": 201.0}]
    plain, ids = extras.lines(rounds)
    assert plain == "without extras: 110.00 µs of CPU a request"
    assert ids == "ids: 111.00 µs of CPU a request, adds +1.00 µs, quartiles +1.00 to +1.00; 1.03 times"


def test_every_extra_is_a_configuration_that_a_sidecar_takes() -> None:
    for sections in extras.extras(4318).values():
        Settings.model_validate({"policies": [], **sections})


@pytest.mark.slow
@NEEDS_WRK
@pytest.mark.long
def test_a_short_run_reports_the_monitoring_overhead(capsys: pytest.CaptureFixture[str]) -> None:
    assert watching.main(["--pairs", "1", "--seconds", "1"]) == 0
    assert "watched / alone, pair by pair: " in capsys.readouterr().out


@pytest.mark.slow
@NEEDS_WRK
@pytest.mark.long
def test_a_short_run_reports_the_cost_of_extras(capsys: pytest.CaptureFixture[str]) -> None:
    assert extras.main(["--rounds", "1", "--seconds", "1"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{name}: " in printed for name in extras.extras(1))


def test_calls_are_counted_only_while_the_counter_is_active() -> None:
    counter = CallCounter()
    sys.setprofile(counter.profile)
    try:
        len("")
        counter.active = True
        for _ in range(4):
            path_part("/a?b")
            str.upper("a")
        counter.active = False
    finally:
        sys.setprofile(None)
    assert counter.functions["<built-in> str.upper"] == 4
    assert counter.functions["<built-in> len"] == 0
    found = counter.per_request(4)
    assert found.own >= 1
    assert found.builtin >= 1


@pytest.mark.slow
@pytest.mark.long
def test_a_short_run_measures_the_memory_of_idle_connections(capsys: pytest.CaptureFixture[str]) -> None:
    assert idle_memory.main(["--connections", "8"]) == 0
    printed = capsys.readouterr().out
    assert "8 connections idle after a request: " in printed
    assert "8 connections with a half-sent head: " in printed


@pytest.mark.slow
@NEEDS_WRK
@pytest.mark.long
def test_a_short_run_counts_calls_of_allowed_and_refused_requests() -> None:
    command = [sys.executable, "-m", "benchmarks.bench.calls"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "| allowed | " in done.stdout
    assert "| refused | " in done.stdout
