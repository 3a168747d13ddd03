"""`sidegate simulate`: replays an access log and reports the results."""

import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from multidict import CIMultiDict
from sidegate.commands.simulate import tally
from sidegate.config import LogSettings
from sidegate.decision.identity import ClientAddress
from sidegate.decision.policy import PolicySet
from sidegate.decision.record import Record
from sidegate.decision.request import RequestFacts
from sidegate.decision.verdict import UNLIMITED
from sidegate.telemetry.log_writer import LineWriter
from sidegate.telemetry.logs import LogLines
from sidegate.telemetry.request_log import RequestLog

from benchmarks import make_access_log
from tests.commands.command_line import COMMAND, ROOT, SAMPLE_LOG, Done, environment, on_a_terminal, sidegate
from tests.commands.conftest import WriteConfig

DEMONSTRATION = ROOT / "config.yaml"
USERS = """
policies:
  - {name: users, match: {path: /api/**}, key: header:X-User-ID | client_ip, limit: 2/minute}
"""


def line(second: float, target: str = "/api/x", *, client: str = "192.0.2.1", method: str = "GET", **more: Any) -> str:
    """Return a JSON line, `second` seconds after the first."""
    logged = {"time": 1_772_438_400 + second, "client": client, "method": method, "path": target, "status": 200, **more}
    return json.dumps(logged)


def log(*lines: str) -> bytes:
    return "".join(f"{each}\n" for each in lines).encode()


def only(done: Done) -> Any:
    """Return the only configuration of a report."""
    (configuration,) = done.json["configurations"]
    return configuration


def policies(configuration: Any) -> dict[str, tuple[int, int, int, int]]:
    """Return requests, admitted, refused and shadow refused, by policy."""
    return {
        policy["name"]: tuple(policy[name] for name in ("requests", "admitted", "refused", "shadow_refused"))
        for policy in configuration["policies"]
    }


# -- the sample log ----------------------------------------------------------------------------------------------------


def test_sample_log_equals_the_output_of_its_script() -> None:
    made = io.BytesIO()
    arguments = ["make_access_log", "--lines", "2500", "--gzip"]
    with mock.patch.object(sys, "argv", arguments), mock.patch.object(sys, "stdout", SimpleNamespace(buffer=made)):
        make_access_log.main()
    assert gzip.decompress(made.getvalue()) == gzip.decompress(SAMPLE_LOG.read_bytes())


def test_sample_log_shows_a_scraper_that_the_limit_of_the_demonstration_refuses() -> None:
    done = sidegate("simulate", DEMONSTRATION, SAMPLE_LOG)
    assert (done.status, done.err) == (0, "")
    told = done.out
    assert "2,494 requests in 2,500 lines (combined 2,494), 2026-03-02T08:00:00Z to 2026-03-02T08:28:28Z\n" in told
    assert "2,396 would pass, 98 would be refused (3.93 %)" in told
    assert re.search(r"^ratelimit +1,915 +1,817 +98 +\S", told, re.MULTILINE)
    assert re.search(r"^client_ip=198\.51\.100\.7 +ratelimit +298 +98$", told, re.MULTILINE)
    assert "not in the log: x-user-id;" in told
    assert "6 lines were skipped: invalid request line (4), not in a known format (2)" in told
    assert "  line 800: not in a known format: logrotate: the line before was cut he\n" in told


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
def test_file_and_standard_input_give_the_same_report(tmp_path: Path, packed: bool) -> None:
    data = SAMPLE_LOG.read_bytes() if packed else gzip.decompress(SAMPLE_LOG.read_bytes())
    path = tmp_path / "access.log"
    path.write_bytes(data)
    from_file = sidegate("simulate", DEMONSTRATION, path, "--json").json
    from_stdin = sidegate("simulate", DEMONSTRATION, "-", "--json", stdin=data).json
    assert (from_file["log"].pop("name"), from_stdin["log"].pop("name")) == (str(path), "standard input")
    assert from_file == from_stdin
    assert from_file["configurations"][0]["refused"] == 98


# -- results ------------------------------------------------------------------------------------------


def test_buckets_fill_with_the_logs_own_time(write_config: WriteConfig) -> None:
    data = log(*(line(second) for second in (0, 1, 2, 31, 62)))
    configuration = only(sidegate("simulate", write_config(USERS), "-", "--json", stdin=data))
    assert policies(configuration) == {"users": (5, 4, 1, 0)}
    assert configuration["keys_refused_most"] == [
        {"policy": "users", "key": "client_ip=192.0.2.1", "requests": 5, "refused": 1}
    ]


def test_headers_in_json_lines_identify_users(write_config: WriteConfig) -> None:
    users = ["alice", "bob", "alice", "bob", "alice", None]
    lines = [line(0, headers={"X-User-ID": user} if user else {}) for user in users]
    configuration = only(sidegate("simulate", write_config(USERS), "-", "--json", stdin=log(*lines)))
    assert [(key["key"], key["refused"]) for key in configuration["keys_refused_most"]] == [("alice", 1)]
    assert configuration["policies"][0]["key_fell_back"] == 1
    assert configuration["fields_not_in_log"] == []


def test_several_limits_charge_all_or_none_and_shadow_policies_only_count(write_config: WriteConfig) -> None:
    config = write_config("""
        policies:
          - {name: fast, match: {path: /api/**}, key: client_ip, limit: 2/s}
          - {name: daily, match: {path: /api/**}, key: client_ip, limit: 3/day}
          - {name: trial, match: {path: /**}, key: client_ip, limit: 1/day, shadow: true}
    """)
    lines = [*(line(0) for _ in range(4)), *(line(5) for _ in range(2))]
    configuration = only(sidegate("simulate", config, "-", "--json", stdin=log(*lines)))
    # Two pass; two exceed the limit by second and cost nothing of the day; one passes; the last exceeds the day.
    assert policies(configuration) == {"fast": (6, 4, 2, 0), "daily": (6, 5, 1, 0), "trial": (6, 1, 0, 5)}
    assert (configuration["passed"], configuration["refused"]) == (3, 3)


def test_every_logged_request_is_counted_once(write_config: WriteConfig) -> None:
    config = write_config("""
        policies:
          - {name: staff, match: {client_ip: 10.0.0.0/8}, exempt: true}
          - name: users
            match: {path: /api/**}
            key: header:X-User-ID | client_ip
            limit: 1/day
            overrides:
              - {key: mallory, blocked: true}
              - {key: monitor, exempt: true}
    """)
    lines = [
        line(0), line(1), line(2, status=503),
        line(3, client="10.0.0.1"), line(3, "/static"), line(3, headers={"X-User-ID": "monitor"}),
        line(4, "/health"), line(4, "/api/status"),
        line(5, "/api/%zz"), line(5, headers={"X-User-ID": ["a", "b"]}),
        line(6, headers={"X-User-ID": "mallory"}),
    ]  # fmt: skip
    done = sidegate("simulate", config, "-", "--json", stdin=log(*lines))
    configuration = only(done)
    assert (configuration["passed"], configuration["refused"], configuration["bad_request"]) == (6, 3, 2)
    assert (configuration["without_a_limit"], configuration["own_pages"]) == (3, 2)
    assert configuration["refused_by_logged_status"] == {"2xx": 2, "5xx": 1}
    assert configuration["policies"][0]["blocked"] == 1
    assert policies(configuration) == {"users": (4, 1, 3, 0)}
    text = sidegate("simulate", config, "-", stdin=log(*lines)).out
    assert "1 requests had a blocked key" in text
    assert "2 are answered by the sidecar itself" in text
    assert "1 answered 400: the path holds a broken percent-escape" in text


def test_timeline_contains_every_request_and_every_refusal() -> None:
    document = sidegate("simulate", DEMONSTRATION, SAMPLE_LOG, "--json").json
    (configuration,) = document["configurations"]
    timeline = configuration["timeline"]
    assert len(timeline["requests"]) == len(timeline["refused"]) == 60
    assert sum(timeline["requests"]) == document["log"]["requests"]
    assert sum(timeline["refused"]) == sum(configuration["policies"][0]["refusals_over_time"]) == 98


def test_log_of_one_second_has_a_timeline_of_one_column(write_config: WriteConfig) -> None:
    done = sidegate("simulate", write_config(USERS), "-", stdin=log(line(0), line(0), line(0)))
    assert "requests  █  up to 3 in 1 s\n" in done.out


def test_sidegates_own_log_can_be_replayed(write_config: WriteConfig) -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing)
    own = RequestLog(
        LogSettings(requests="all"), LogLines(writer, text=False), lambda: PolicySet([], ClientAddress(), "")
    )
    for _ in range(3):
        facts = RequestFacts("GET", "/api/x?y=1", CIMultiDict({"X-User-ID": "alice"}), "192.0.2.7")
        own.note(Record(facts, 200, UNLIMITED, "", 0.001, 0.002))
    writer.close()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    configuration = only(sidegate("simulate", write_config(USERS), "-", "--json", stdin=data))
    assert configuration["keys_refused_most"] == [
        {"policy": "users", "key": "client_ip=192.0.2.7", "requests": 3, "refused": 1}
    ]


def test_beyond_the_bound_the_keys_refused_least_are_dropped_and_counts_are_lower_bounds(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "MOST_KEYS", 10)
    lines = [*(line(0, client="192.0.2.1") for _ in range(5)), *(line(1, client=f"198.51.100.{n}") for n in range(50))]
    done = sidegate("simulate", write_config(USERS), "-", "--json", stdin=log(*lines))
    assert only(done)["keys_not_counted"] > 0
    assert only(done)["keys_refused_most"][0]["key"] == "client_ip=192.0.2.1"
    text = sidegate("simulate", write_config(USERS), "-", stdin=log(*lines)).out
    assert "keys refused most (lower bounds)" in text


# -- two configurations ---------------------------------------------------------------------------------------------------


def test_comparison_lists_changes_by_policy_and_by_key(write_config: WriteConfig) -> None:
    before = write_config("policies: [{name: users, key: client_ip, limit: 3/day}]")
    after = write_config("""
        policies:
          - {name: users, key: client_ip, limit: 1/day}
          - {name: writes, match: {method: POST}, key: client_ip, limit: 1/day}
    """)
    lines = [*(line(0) for _ in range(4)), *(line(1, client="192.0.2.2", method="POST") for _ in range(2))]
    done = sidegate("simulate", after, "-", "--against", before, "--json", stdin=log(*lines))
    assert [configuration["refused"] for configuration in done.json["configurations"]] == [4, 1]
    comparison = done.json["comparison"]
    assert comparison["refused"] == 3
    assert comparison["policies"] == [
        {"name": "users", "refused": 4, "refused_against": 1, "change": 3},
        {"name": "writes", "refused": 1, "refused_against": None, "change": 1},
    ]
    assert comparison["keys"][0] == {
        "policy": "users", "key": "192.0.2.1", "refused": 3, "refused_against": 1, "change": 2
    }  # fmt: skip
    text = sidegate("simulate", after, "-", "--against", before, stdin=log(*lines)).out
    assert f"{after} refuses +3 requests against {before}" in text
    assert re.search(r"^writes +1 +- +\+1$", text, re.MULTILINE)


def test_comparison_of_a_configuration_with_itself_has_no_changes() -> None:
    done = sidegate("simulate", DEMONSTRATION, SAMPLE_LOG, "--against", DEMONSTRATION, "--json")
    assert done.json["comparison"]["keys"] == []
    assert done.json["comparison"]["refused"] == 0


# -- unreadable input ------------------------------------------------------------------------------------------------


def test_skipped_lines_are_shown_with_control_characters_escaped(write_config: WriteConfig) -> None:
    data = log(line(0)) + b"\x1b[2J\x1b]0;gone\x07 not a request\n{broken\n" + b"x" * 70_000 + b"\n" + log(line(1))
    done = sidegate("simulate", write_config(USERS), "-", stdin=data)
    assert done.status == 0
    assert "\x1b" not in done.out
    assert r"line 2: not in a known format: \x1b[2J" in done.out
    assert "line 3: not valid JSON: {broken" in done.out
    assert "line 4: longer than 64 KiB" in done.out
    assert "2 requests in 5 lines (json 2)" in done.out


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "standard input contains no request that can be replayed (0 lines)"),
        (b"\n \n", "standard input contains no request that can be replayed (2 lines)"),
        (b"date,status\n", "line 1: not in a known format: date,status"),
        (b"PK\x03\x04 a zip archive", "the input is compressed with zip; only gzip is supported"),
        (gzip.compress(b"", mtime=0), "contains no request that can be replayed (0 lines)"),
    ],
)
def test_log_without_a_request_exits_with_1_and_shows_the_first_lines(data: bytes, told: str) -> None:
    done = sidegate("simulate", DEMONSTRATION, "-", stdin=data)
    assert (done.status, done.out) == (1, "")
    assert told in done.err


def test_truncated_log_is_reported_up_to_its_end_with_exit_status_1() -> None:
    done = sidegate("simulate", DEMONSTRATION, "-", "--json", stdin=SAMPLE_LOG.read_bytes()[:9000])
    assert done.status == 1
    assert "the gzip data is truncated" in done.err
    assert done.json["log"]["ended_early"] == "the gzip data is truncated"
    assert 1000 < done.json["log"]["requests"] < 2000


@pytest.mark.parametrize(
    ("log_name", "told"),
    [("missing.log", "missing.log: No such file or directory"), (".", ".: Is a directory")],
)
def test_unreadable_log_file_exits_with_1(log_name: str, told: str) -> None:
    done = sidegate("simulate", DEMONSTRATION, log_name)
    assert (done.status, done.out, done.err) == (1, "", f"sidegate: {told}\n")


def test_fault_in_the_other_configuration_is_reported_with_its_line(write_config: WriteConfig) -> None:
    other = write_config("policies: [{name: x}]")
    done = sidegate("simulate", DEMONSTRATION, SAMPLE_LOG, "--against", other)
    assert (done.status, done.out) == (1, "")
    assert f"{other}:1:" in done.err


def test_wrong_usage_exits_with_2() -> None:
    done = sidegate("simulate", DEMONSTRATION, SAMPLE_LOG, "--format", "csv")
    assert done.status == 2
    assert "'csv' is not a format; expected one of auto, combined, vhost, json, envoy, haproxy, alb" in done.err
    assert sidegate("simulate", DEMONSTRATION).status == 2


# -- terminals, pipes, signals --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 120])
def test_report_fits_the_width_of_the_terminal(columns: int) -> None:
    status, told = on_a_terminal("simulate", DEMONSTRATION, SAMPLE_LOG, columns=columns, err_too=False)
    assert status == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", told)
    assert re.search(r"^ratelimit +1,915 +1,817 +98 +[▁▂▃▄▅▆▇█]{4}", plain, re.MULTILINE)
    assert max(map(len, plain.splitlines())) <= columns


@pytest.mark.long
@pytest.mark.slow
def test_progress_bar_and_colours_appear_on_terminals_only() -> None:
    arguments = ("simulate", DEMONSTRATION, SAMPLE_LOG)
    _, told = on_a_terminal(*arguments)
    assert "lines" in told.split("requests in")[0]  # the progress bar
    assert "\x1b[31m" in told
    _, told = on_a_terminal(*arguments, more={"NO_COLOR": "1"})
    assert "\x1b[3" not in told
    piped = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, env=environment(FORCE_COLOR="1"), cwd=ROOT, check=True
    )
    assert b"\x1b" not in piped.stdout
    assert piped.stderr == b""


@pytest.mark.slow
def test_closed_pipe_ends_the_output_without_an_error() -> None:
    process = subprocess.Popen(
        [*COMMAND, "simulate", str(DEMONSTRATION), str(SAMPLE_LOG)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    process.stdout.close()
    _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (0, b"")


@pytest.mark.slow
def test_ctrl_c_ends_reading_and_prints_the_report_so_far() -> None:
    process = subprocess.Popen(
        [*COMMAND, "simulate", str(DEMONSTRATION), "-", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdin is not None
    # More than a pipe buffers: once the write returns, all but the last 64 KiB have been read.
    process.stdin.write(log(*(line(second) for second in range(5_000))))
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    process.wait(30)
    out, told = process.communicate()
    document = json.loads(out)
    assert process.returncode == 1
    assert document["log"]["ended_early"] == "interrupted"
    assert document["log"]["requests"] > 1000
    assert b"Traceback" not in told


@pytest.mark.slow
def test_full_disk_is_reported() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [*COMMAND, "explain", str(DEMONSTRATION), "GET", "/"], stdout=full, stderr=subprocess.PIPE, check=False,
            env=environment(),
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, b"sidegate: cannot write: No space left on device\n")
