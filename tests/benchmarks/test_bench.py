"""The benchmark: arithmetic, checks of the responses, and one short run on real proxies."""

import asyncio
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Self, cast

import pytest
from sidegate.config import Settings

from benchmarks.bench import __main__ as command
from benchmarks.bench import figures, goals, growth, report, store_results, volley, wrk
from benchmarks.bench.candidates import NGINX, SIDEGATE, Candidate, plans
from benchmarks.bench.figures import Case, Figures, Sample, Spread, spread
from benchmarks.bench.measure import (
    ALLOWED,
    ALLOWED_ALIKE,
    REFUSED,
    REFUSED_ALIKE,
    WrongAnswers,
    check_outcome,
    check_volley,
)
from benchmarks.static_upstream import ANSWER, Static
from tests.recorder import Recorder

CASE = Case(ALLOWED, 32)
NEEDS_WRK = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: apt-get install wrk")
WRK = """Running 2s test @ http://127.0.0.1:8080/wide
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.90ms  410.11us   9.65ms   91.20%
  33557 requests in 2.00s, 4.10MB read
{more}Requests/sec:  16769.51
Transfer/sec:      2.05MB
percentile 50 1810
percentile 99 3400
percentile 99.9 7250
"""


def sample(number: int, candidate: str, proxy_us: float, p99_ms: float = 1.0) -> Sample:
    return Sample(number, candidate, CASE, Figures(1000.0, proxy_us, 5.0, 0.5, p99_ms, 2.0, 60.0))


def outcome(requests: int, failed: int = 0, broken: int = 0) -> wrk.Outcome:
    return wrk.Outcome(requests, failed, broken, 1.0, 1.0, 1.0, 1.0)


# Arithmetic


def test_a_spread_is_the_median_between_the_extremes() -> None:
    assert spread([5.0, 1.0, 3.0]) == (3.0, 1.0, 5.0)
    assert spread([4.0, 2.0]) == (3.0, 2.0, 4.0)


def test_a_ratio_is_taken_within_each_round_so_that_a_slow_round_hits_both_sides() -> None:
    samples = [sample(0, SIDEGATE, 20), sample(0, NGINX, 40), sample(1, SIDEGATE, 300), sample(1, NGINX, 300)]
    assert figures.ratio(samples, SIDEGATE, NGINX, CASE, lambda found: found.proxy_us) == (0.75, 0.5, 1.0)


def test_a_ratio_leaves_out_rounds_that_one_side_lacks_and_denominators_of_zero() -> None:
    samples = [sample(0, SIDEGATE, 20), sample(1, NGINX, 40), sample(2, SIDEGATE, 1), sample(2, NGINX, 0)]
    assert figures.ratio(samples, SIDEGATE, NGINX, CASE, lambda found: found.proxy_us) is None


def test_figures_of_another_case_do_not_count() -> None:
    assert figures.of([sample(0, SIDEGATE, 20)], SIDEGATE, Case(REFUSED, 32), lambda found: found.rate) is None


def test_goals_are_judged_only_where_their_peer_was_measured() -> None:
    samples = [sample(0, SIDEGATE, 20, 3.0), sample(0, NGINX, 40, 2.0)]
    judged = {goal.words: (found.middle, found.middle <= goal.most) for goal, found in goals.judged(samples)}
    assert judged == {
        "CPU of the proxy, allowed": (0.5, True),
        "CPU of the store, allowed": (1.0, False),
        "p99, allowed": (1.5, False),
    }


def test_a_cell_shows_significant_digits_only() -> None:
    assert report.cell(Spread(1234.5, 1000.4, 2000.6)) == "1234 (1000 to 2001)"
    assert report.cell(Spread(31.26, 30.0, 33.0)) == "31.3 (30.0 to 33.0)"
    assert report.cell(Spread(0.912, 0.9, 1.0)) == "0.91 (0.90 to 1.00)"
    assert report.cell(None) == "-"


def test_saved_samples_are_read_back_unchanged() -> None:
    samples = [sample(0, SIDEGATE, 20), sample(1, NGINX, 40)]
    assert store_results.samples_of(json.loads(json.dumps(store_results.rows_of(samples)))) == samples


def test_growth_is_reported_as_multiples_of_the_first_size() -> None:
    points = {"body of the request (bytes)": [growth.Point(0, 20.0, 5.0, 1.0), growth.Point(1024, 30.0, 5.0, 1.5)]}
    lines = list(report.growth_lines(json.loads(json.dumps(points))))
    assert lines[0] == "### Body of the request\n"
    assert lines[-2] == "| 1,024 | 30.0 | 5.0 | 1.50 | 1.50 |"


def test_the_points_of_one_size_become_the_median_of_each_figure() -> None:
    points = [growth.Point(8, 20.0, 5.0, 3.0), growth.Point(8, 22.0, 4.0, 1.0), growth.Point(8, 21.0, 6.0, 2.0)]
    assert growth.middle(points) == growth.Point(8, 21.0, 5.0, 2.0)


@pytest.mark.parametrize("size", [1, 10, 100])
def test_every_question_has_policies_that_a_sidecar_accepts(size: int) -> None:
    for question in growth.QUESTIONS:
        Settings.model_validate({"policies": question.policies(size)})


async def test_the_upstream_responds_once_the_whole_body_has_arrived() -> None:
    server = await asyncio.get_running_loop().create_server(Static, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    post = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n"
    writer.write(post + b"12")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readexactly(1), 0.05)
    writer.write(b"345" + post + b"\r\n\r\n5" + b"GET / HTTP/1.1\r\n\r\n")
    assert await asyncio.wait_for(reader.readexactly(3 * len(ANSWER)), 5) == ANSWER * 3
    writer.write(b"GET /?unlike HTTP/1.1\r\n\r\n" * 2)
    one, other = [await asyncio.wait_for(reader.readuntil(b"world!"), 5) for _ in range(2)]
    assert one != other
    assert all(b"\r\nDate: " in each and b"\r\nX-Response-ID: " in each for each in (one, other))
    writer.close()
    server.close()


# wrk


def test_wrks_summary_is_read() -> None:
    assert wrk.parse(WRK.format(more="")) == wrk.Outcome(33557, 0, 0, 16769.51, 1.81, 3.4, 7.25)


def test_wrks_failures_are_read() -> None:
    more = "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 33555\n"
    found = wrk.parse(WRK.format(more=more))
    assert (found.failed, found.broken) == (33555, 10)


def test_other_output_than_wrks_summary_is_an_error() -> None:
    with pytest.raises(ValueError, match="wrk printed no"):
        wrk.parse("unable to connect")


# Right answers


@pytest.mark.parametrize(
    ("kind", "statuses"),
    [
        (ALLOWED, {200: 160}),
        (ALLOWED_ALIKE, {200: 160}),
        (REFUSED, {429: 160}),
        (REFUSED, {429: 158, 200: 2}),
        (REFUSED, {429: 120, 200: 40}),
        (REFUSED_ALIKE, {429: 160}),
        (REFUSED_ALIKE, {429: 158, 200: 2}),
    ],
)
def test_statuses_that_the_limit_allows_are_accepted(kind: str, statuses: dict[int, int]) -> None:
    check_volley(Case(kind, 32), statuses)


@pytest.mark.parametrize(
    ("kind", "statuses"),
    [
        (ALLOWED, {200: 159, 429: 1}),
        (ALLOWED, {503: 160}),
        (REFUSED, {503: 160}),
        (REFUSED, {429: 100, 200: 60}),
        (REFUSED, {429: 159, 502: 1}),
        (ALLOWED_ALIKE, {200: 159, 429: 1}),
        (REFUSED_ALIKE, {200: 160}),
        (REFUSED_ALIKE, {429: 157, 200: 3}),
    ],
)
def test_any_other_status_raises(kind: str, statuses: dict[int, int]) -> None:
    with pytest.raises(WrongAnswers, match="statuses"):
        check_volley(Case(kind, 32), statuses)


def test_a_run_with_responses_that_the_limit_does_not_allow_raises() -> None:
    check_outcome(Case(ALLOWED, 1), outcome(100), 2)
    check_outcome(Case(REFUSED, 1), outcome(1000, failed=900), 2)
    check_outcome(Case(REFUSED_ALIKE, 1), outcome(100, failed=95), 2)
    for case, found in (
        (Case(ALLOWED, 1), outcome(100, failed=1)),
        (Case(ALLOWED, 1), outcome(0)),
        (Case(ALLOWED, 1), outcome(100, broken=1)),
        (Case(REFUSED, 1), outcome(1000, failed=899)),
        (Case(REFUSED_ALIKE, 1), outcome(100, failed=94)),
    ):
        with pytest.raises(WrongAnswers):
            check_outcome(case, found, 2)


def test_a_volley_counts_every_answer_by_its_status() -> None:
    recorder = Recorder()
    try:
        assert volley.statuses(recorder.port, "/", 3, 2) == Counter({200: 6})
    finally:
        recorder.stop()


# The requests


class Heads(asyncio.Protocol):
    """Collects the heads that wrk sends, and responds to each."""

    def __init__(self, received: list[bytes]) -> None:
        self._received = received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        self._transport.write(ANSWER)


@NEEDS_WRK
@pytest.mark.slow
async def test_the_load_has_twelve_fields_all_users_and_no_two_heads_alike() -> None:
    received: list[bytes] = []
    server = await asyncio.get_running_loop().create_server(lambda: Heads(received), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    core = max(os.sched_getaffinity(0))
    found = await asyncio.to_thread(wrk.run, f"http://127.0.0.1:{port}/wide?unlike", 2, 1, core, users=20)
    server.close()
    assert found.requests > 20
    assert not found.failed + found.broken
    fields = [dict(line.split(b": ", 1) for line in each.split(b"\r\n")[1:-2]) for each in received]
    assert all(each.startswith(b"GET /wide?unlike HTTP/1.1\r\n") for each in received)
    assert {len(each) for each in fields} == {12}
    assert len({each[b"X-User-ID"] for each in fields}) == 20
    assert (
        len({each[b"traceparent"] for each in fields}) == len({each[b"X-Request-ID"] for each in fields}) == len(fields)
    )
    assert all(re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", each[b"traceparent"]) for each in fields)


# The command


@pytest.mark.slow
@NEEDS_WRK
@pytest.mark.long
def test_a_short_run_prints_its_figures_and_leaves_the_saved_results_unchanged(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_results, "FOLDER", tmp_path / "results")
    only = [plan.name for plan in plans() if plan.missing is None and plan.name in (SIDEGATE, NGINX)]
    arguments = ["--rounds", "1", "--seconds", "1", "--connections", "2", "--no-keep", "--only", *only]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    for kind in ("Allowed", "Refused"):
        assert f"### {kind}, 2 connections" in printed
    for name in only:
        assert printed.count(f"| {name} | ") == 2
    assert not (tmp_path / "results").exists()


def test_a_measurement_with_wrong_responses_is_reported_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Idle:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def start_store(self, _: int) -> int:
            return 1

        def start_upstream(self, _: int) -> int:
            return 2

    def measure(_: object, candidate: object, case: Case, *__: object) -> Figures:
        if case.kind == REFUSED:
            raise WrongAnswers("statuses {503: 5}")
        return sample(0, SIDEGATE, 20).figures

    monkeypatch.setattr(command, "Laboratory", Idle)
    monkeypatch.setattr(command, "start", lambda _, plan, *__: Candidate(plan.name, 3, 4))
    monkeypatch.setattr(command, "measure", measure)
    samples, uncounted = command.run(plans()[:1], [Case(ALLOWED, 1), Case(REFUSED, 1)], 2, 1)
    assert [each.case.kind for each in samples] == [ALLOWED, ALLOWED]
    assert uncounted == [f"{SIDEGATE}, refused, 1, round {number}: statuses {{503: 5}}" for number in (1, 2)]


def test_a_missing_peer_is_reported_with_its_install_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "nginx" else f"/usr/bin/{name}")
    monkeypatch.setattr(command, "run", lambda *_: ([], []))
    assert command.main(["--only", NGINX, "--no-keep"]) == 0
    assert "nginx+lua is not installed" in (told := capsys.readouterr().err)
    assert "apt-get install nginx libnginx-mod-http-lua lua-nginx-redis" in told
