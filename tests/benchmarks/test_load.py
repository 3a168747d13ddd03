"""The load script end to end, against a small limiter of its own."""

import asyncio
import json
import re
import signal
import sys
from pathlib import Path

import pytest

from benchmarks import load
from benchmarks.load_client import Outcome, ask_any, open_session
from tests.benchmarks.fake_limiter import FakeLimiter, Start
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there


async def run(urls: list[str], *argv: str) -> int:
    return await load.carry_out(load.parse([argv[0], "--targets", ",".join(urls), *argv[1:]]))


# -- test -------------------------------------------------------------------------------------------------------------


async def test_ten_of_fifteen_requests_of_a_fresh_user_pass(
    limiter: FakeLimiter, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = await start(limiter)
    assert await run(urls, "test") == 0
    out = capsys.readouterr().out
    lines = re.findall(r"^ +\d+  \d\d:\d\d:\d\d\.\d{3}  (\S+) +(\d{3}) +(\d+)(?: +(\d+) s)?$", out, re.MULTILINE)
    instances = [url.partition("://")[2] for url in urls] * 5
    passed = [(instance, "200", str(9 - number), "") for number, instance in enumerate(instances[:10])]
    assert lines == passed + [(instance, "429", "0", "86400") for instance in instances[10:]]
    assert out.endswith("10 admitted, 5 refused: what the policy says.\n")
    assert "\x1b" not in out


async def test_a_user_who_comes_again_is_expected_to_be_refused(limiter: FakeLimiter, start: Start) -> None:
    urls = await start(limiter)
    assert await run(urls, "test", "--user", "[bold]alice") == 0
    assert await run(urls, "test", "--user", "[bold]alice") == 0
    assert limiter.taken == {"[bold]alice": 10}


@pytest.mark.parametrize(
    ("limiter", "explanation"),
    [
        (FakeLimiter(gives_away=2), "request 12 (200): expected 429: ratelimit held at most 0.00 tokens, cost 1"),
        (FakeLimiter(withholds=1), "request 10 (429): expected success: ratelimit held at least 1.00 tokens, cost 1"),
        (FakeLimiter(answers=503), "request 1 (503): expected success or 429"),
        (FakeLimiter(unmarked=True, gives_away=9), "carry no rate-limit fields"),
    ],
    ids=["gives away", "withholds", "fails", "says nothing"],
)
async def test_a_limiter_that_is_wrong_is_found_wrong(
    limiter: FakeLimiter, explanation: str, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(await start(limiter), "test") == 1
    out = capsys.readouterr().out
    assert "not what the policy says" in out
    assert explanation in out


async def test_without_policies_everything_is_expected_to_pass(start: Start) -> None:
    assert await run(await start(FakeLimiter(policies=False, unmarked=True, gives_away=9)), "test") == 0
    assert await run(await start(FakeLimiter(policies=False, unmarked=True)), "test") == 1


@pytest.mark.parametrize("command", ["test", "load"])
async def test_a_sidecar_that_does_not_answer_is_named(
    command: str, limiter: FakeLimiter, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = await start(limiter)
    assert await run([urls[0], NOBODY], command) == 1
    captured = capsys.readouterr()
    assert f"{NOBODY} does not answer (Connection refused). Is it running? Try: make start" in captured.err
    assert captured.out == ""
    assert limiter.taken == {}


async def test_something_that_is_no_sidecar_is_named(
    limiter: FakeLimiter, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = await start(limiter)
    assert await run(urls, "test", "--status-path", "/api/elsewhere") == 1
    assert "answered 404; a sidecar reports" in capsys.readouterr().err
    assert await run(urls, "test", "--status-path", "/api/data") == 1
    assert "answered no status: policies: Field required" in capsys.readouterr().err


# -- load -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", [["--concurrency", "4"], ["--rate", "5000"]], ids=["closed", "open"])
async def test_every_user_is_admitted_as_its_bucket_allows(
    loop: list[str], limiter: FakeLimiter, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(await start(limiter), "load", "--users", "3", "--requests", "48", *loop) == 0
    captured = capsys.readouterr()
    assert list(limiter.taken.values()) == [10, 10, 10]
    assert re.search(r"^all +48 +30 +30 +30 +18 +0", captured.out, re.MULTILINE)
    assert "What the policy says: no user above its bound" in captured.out
    assert captured.err == ""


async def test_json_is_one_document_and_nothing_else(
    limiter: FakeLimiter, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(await start(limiter), "load", "--users", "2", "--requests", "30", "--json") == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["ok"], document["sent"], document["admitted"], document["refused"]) == (True, 30, 20, 10)
    assert [(user["at_least"], user["at_most"]) for user in document["users"]] == [(10, 10), (10, 10)]
    assert sum(step["count"] for step in document["latency_ms"]["admitted"]["histogram"]) == 20
    assert captured.err == ""


@pytest.mark.parametrize(
    ("limiter", "explanation"),
    [
        (FakeLimiter(gives_away=1), "admitted 11 times, at most 10 is right"),
        (FakeLimiter(withholds=1), "was admitted 9 times, at least 10 is right"),
        (FakeLimiter(answers=503), "30 requests had no proper answer: 503 (30)"),
        (FakeLimiter(unmarked=True), "carry no rate-limit fields"),
    ],
    ids=["gives away", "withholds", "fails", "says nothing"],
)
async def test_a_wrong_limiter_is_found_wrong_under_load(
    limiter: FakeLimiter, explanation: str, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(await start(limiter), "load", "--users", "2", "--requests", "30") == 1
    assert explanation in capsys.readouterr().out


async def test_a_request_whose_sidecar_accepts_no_connection_goes_to_the_next_one(
    limiter: FakeLimiter, start: Start
) -> None:
    gone, serving = f"http://127.0.0.1:{free_port()}/api/data", f"{(await start(limiter))[0]}/api/data"
    async with open_session(connections=2, timeout_s=10.0) as session:
        answer, refused = await ask_any(session, [gone, serving], "ann")
        assert (answer.outcome, refused) == (Outcome.ADMITTED, 1)
        answer, refused = await ask_any(session, [gone, gone], "ann")
        assert (answer.outcome, refused) == (Outcome.FAILED, 1)
        answer, refused = await ask_any(session, [serving, gone], "ann")
        assert (answer.outcome, refused) == (Outcome.ADMITTED, 0)


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: command"),
        (["test", "--requests", "0"], "expected a whole number from 1 to"),
        (["test", "--targets", "8081"], "expected URLs like"),
        (["test", "--targets", "http://[::1"], "expected URLs like"),
        (["test", "--targets", ","], "at least one"),
        (["test", "--path", "api"], "expected a path like"),
        (["test", "--user", "a\nb"], "fits a header field"),
        (["load", "--users", "many"], "expected a whole number"),
        (["load", "--rate", "nan"], "expected a number above 0"),
        (["load", "--duration", "-1"], "expected a number above 0"),
        (["load", "--concurrency", "5000"], "from 1 to 960"),
    ],
)
def test_misuse_is_explained_and_ends_with_2(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        load.parse(argv)
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_the_environment_names_user_and_sidecars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER_ID", "alice")
    monkeypatch.setenv("PROXY_URLS", "http://a:1/ http://b:2")
    options = load.parse(["test"])
    assert (options.user, options.targets) == ("alice", ("http://a:1", "http://b:2"))
    assert load.parse(["test", "--user", "bob"]).user == "bob"
    monkeypatch.setenv("PROXY_URLS", "nowhere")
    with pytest.raises(SystemExit):
        load.parse(["load"])


def test_each_run_has_a_fresh_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USER_ID", raising=False)
    assert load.parse(["test"]).user != load.parse(["test"]).user


# -- as a process -----------------------------------------------------------------------------------------------------


async def process(*argv: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.load", *argv, cwd=ROOT, stdout=pipe, stderr=pipe
    )


@pytest.mark.slow
async def test_ctrl_c_ends_the_load_early_and_it_is_still_reported(limiter: FakeLimiter, start: Start) -> None:
    urls = await start(limiter)
    loading = await process("load", "--targets", ",".join(urls), "--duration", "50", "--rate", "100", "--json")
    await limiter.asked.wait()
    loading.send_signal(signal.SIGINT)
    out, err = await loading.communicate()
    document = json.loads(out)
    assert (loading.returncode, err) == (0, b"")
    assert (document["interrupted"], document["ok"]) == (True, True)
    assert 0 < document["elapsed_s"] < 50


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["test"], ["load", "--requests", "5"], ["load", "--requests", "5", "--json"]])
async def test_a_reader_who_leaves_is_no_fault_to_speak_of(argv: list[str], limiter: FakeLimiter, start: Start) -> None:
    urls = await start(limiter)
    running = await process(*argv, "--targets", ",".join(urls))
    assert running.stdout is not None
    running.stdout._transport.close()  # type: ignore[attr-defined]
    _, err = await running.communicate()
    assert (running.returncode, err) == (141, b"")


@pytest.mark.slow
async def test_misuse_ends_the_process_with_2() -> None:
    misused = await process("load", "--users", "0")
    await misused.communicate()
    assert misused.returncode == 2
