"""Commands status, top and buckets against running sidecars: output and exit status."""

import json
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from sidegate.commands.fleet.sidecars import bucket_path, default_urls
from sidegate.commands.fleet.traffic import policy_figures, sparkline, totals_of_overviews

from tests.commands.command_line import COMMAND, environment
from tests.raw_client import get
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer, free_port
from tests.sidecar import Config, Sidecar, configuration, run_command

POLICIES: list[dict[str, object]] = [
    {"name": "users", "match": {"path": ["/api/**"]}, "key": "header:X-User-ID", "limit": "1/day", "burst": 3}
]


@pytest.fixture(scope="module")
def pair(shared_store_server: StoreServer) -> Iterator[tuple[Sidecar, Sidecar]]:
    recorder = Recorder()

    def config() -> Config:
        return configuration(shared_store_server.url, recorder.url, policies=POLICIES)

    with Sidecar(config()) as first, Sidecar(config()) as second:
        yield first, second
    recorder.stop()


def admins(*sidecars: Sidecar) -> list[str]:
    return [word for each in sidecars for word in ("--admin", f"http://127.0.0.1:{each.admin_port}")]


def spend(sidecar: Sidecar, user: str, count: int) -> list[int]:
    return [get(sidecar.port, "/api/data", f"X-User-ID: {user}").status for _ in range(count)]


def overview(rate: float, share_429: float | None, p99: float | None) -> dict[str, Any]:
    responses = {"2xx": None if share_429 is None else 1 - share_429, "4xx": 0, "429": share_429, "5xx": 0}
    return {
        "requests_per_s": rate,
        "in_flight": 1,
        "responses": responses,
        "latency_ms": {"total": {"p50": p99, "p99": p99}},
    }


@pytest.mark.slow
def test_status_shows_all_sidecars_with_totals_and_fails_if_one_does_not_answer(pair: tuple[Sidecar, Sidecar]) -> None:
    shown = run_command("status", *admins(*pair))
    assert (shown.returncode, shown.stdout.count(" up ")) == (0, 4), shown.stdout
    assert shown.stdout.splitlines()[-1].startswith("total")
    gone = f"http://127.0.0.1:{free_port()}"
    shown = run_command("status", *admins(pair[0]), "--admin", gone, "--json")
    first, second = json.loads(shown.stdout)["sidecars"]
    assert shown.returncode == 1
    assert (first["overview"]["application"]["state"], second["overview"]) == ("up", None)
    assert "no answer" in second["fault"]


@pytest.mark.slow
def test_status_reports_that_configurations_differ(pair: tuple[Sidecar, Sidecar], store_server: StoreServer) -> None:
    other = configuration(store_server.url, pair[0].config["upstream"]["url"], policies=[{**POLICIES[0], "burst": 4}])
    with Sidecar(other) as third:
        shown = run_command("status", *admins(pair[0], third))
        assert shown.returncode == 1
        assert "do not decide alike" in shown.stdout


@pytest.mark.slow
def test_top_adds_up_requests_of_all_sidecars(pair: tuple[Sidecar, Sidecar], store_server: StoreServer) -> None:
    for sidecar in pair:
        spend(sidecar, "alice", 4)

    def users() -> tuple[int, int]:
        shown = run_command("top", "--json", *admins(*pair))
        assert shown.returncode == 0
        (policy,) = json.loads(shown.stdout)["policies"]
        return policy["matched"], policy["refused"]

    eventually(lambda: users() == (8, 5), "the second to be over")
    (key,) = json.loads(run_command("top", "--json", *admins(*pair)).stdout)["refused"]
    assert (key["key"], key["count"], key["error"]) == ("alice", 5, 0)
    screen = run_command("top", "--once", *admins(*pair))
    assert screen.returncode == 0
    assert all(word in screen.stdout for word in ("users", "1/day, burst 3", "63 %", "alice", "up", "█", "total"))
    assert run_command("top", "--once", "--admin", f"http://127.0.0.1:{free_port()}").returncode == 1


@pytest.mark.slow
def test_status_and_top_report_an_application_that_is_down(store_server: StoreServer) -> None:
    down = f"http://127.0.0.1:{free_port()}"
    with Sidecar(configuration(store_server.url, down, policies=POLICIES)) as sidecar:

        def status() -> str:
            spend(sidecar, "alice", 1)
            return " ".join(run_command("status", *admins(sidecar)).stdout.split())

        def overview() -> dict[str, Any]:
            spend(sidecar, "alice", 1)
            shown = run_command("status", "--json", *admins(sidecar))
            assert shown.returncode == 1
            (row,) = json.loads(shown.stdout)["sidecars"]
            found: dict[str, Any] = row["overview"]
            return found

        eventually(lambda: "The application is down" in status(), "the application's state")
        assert overview()["application"]["state"] == "down"
        # A share is known once a second with requests has ended, and until its window has.
        eventually(lambda: overview()["responses"]["5xx"], "the share of 5xx")
        assert "Start the application" in run_command("top", "--once", *admins(sidecar)).stdout


@pytest.mark.slow
@pytest.mark.long
def test_an_outage_of_the_store_is_shown_with_its_effect(own_store_server: StoreServer) -> None:
    recorder = Recorder()
    policies = [{**POLICIES[0], "on_store_failure": "local"}]
    config = configuration(own_store_server.url, recorder.url, policies=policies, store={"timeout": "50ms"})
    with Sidecar(config) as sidecar:
        own_store_server.pause()  # it stays connected, so only the breaker shows the outage

        def shown() -> str:
            spend(sidecar, "alice", 3)
            return " ".join(run_command("top", "--once", *admins(sidecar)).stdout.split())

        def refused_locally() -> float:
            spend(sidecar, "alice", 3)
            (row,) = json.loads(run_command("status", "--json", *admins(sidecar)).stdout)["sidecars"]
            without_store = row["overview"]["store"]["without_store_per_s"]
            assert set(without_store) <= {"local"}
            return float(row["overview"]["responses"]["429"] or 0) * float(without_store.get("local", 0))

        eventually(lambda: "Runbook:" in shown(), "the breaker")
        assert "enforce this proxy's share" in shown()
        assert "answer 503" not in shown()
        status = run_command("status", "--json", *admins(sidecar))
        (row,) = json.loads(status.stdout)["sidecars"]
        assert status.returncode == 1
        assert row["overview"]["store"]["state"] in ("open", "down")
        eventually(lambda: refused_locally() > 0, "refusals by the share")
        own_store_server.resume()
        eventually(lambda: "Runbook:" not in shown(), "the end of the outage")
    recorder.stop()


@pytest.mark.slow
@pytest.mark.long
def test_a_missing_and_a_wrong_token_are_named_and_fail(store_server: StoreServer) -> None:
    config = configuration(
        store_server.url, f"http://127.0.0.1:{free_port()}", admin={"token": "a token of some length"}
    )
    with Sidecar(config) as sidecar:
        for command in (["status"], ["top", "--once"], ["buckets", "list"], ["buckets", "show", "tight", "a"]):
            shown = run_command(*command, *admins(sidecar))
            assert shown.returncode == 1
            assert "set the environment variable ADMIN_TOKEN" in " ".join((shown.stdout + shown.stderr).split())
            wrong = run_command(*command, *admins(sidecar), environment={"ADMIN_TOKEN": "another"})
            assert wrong.returncode == 1
            assert "ADMIN_TOKEN is not the token" in " ".join((wrong.stdout + wrong.stderr).split())


@pytest.mark.slow
def test_buckets_are_listed_shown_and_reset_in_all_sidecars(
    pair: tuple[Sidecar, Sidecar], store_server: StoreServer
) -> None:
    first, second = pair
    assert spend(first, "b/ob", 4)[-1] == 429
    assert spend(second, "b/ob", 1) == [429]
    listed = run_command("buckets", "list", "--search", "ob", "--json", *admins(first))
    (bucket,) = json.loads(listed.stdout)["buckets"]
    assert bucket["key"] == "b%2Fob"
    shown = run_command("buckets", "show", "users", "b%2Fob", *admins(first))
    assert "0 of 3 tokens, the next in" in shown.stdout
    reset = run_command("buckets", "reset", "users", "b%2Fob", *admins(first, second))
    assert (reset.returncode, reset.stdout) == (0, "example:users:b%2Fob: reset\n")
    assert spend(first, "b/ob", 1) + spend(second, "b/ob", 1) == [200, 200], "no sidecar refuses from memory"
    spend(first, "a b", 1)
    assert "2 of 3 tokens" in run_command("buckets", "show", "users", "a b", *admins(first)).stdout
    again = run_command("buckets", "show", "nothing", "x", *admins(first))
    assert again.returncode == 1
    assert "there are: users" in again.stderr


def test_a_url_that_is_no_admin_listener_is_a_usage_error() -> None:
    shown = run_command("status", "--admin", "localhost:9901")
    assert shown.returncode == 2
    assert "expected e.g. http://127.0.0.1:9901" in shown.stderr


def test_totals_weight_shares_by_requests_and_take_the_slowest_latency() -> None:
    totals = totals_of_overviews([overview(30.0, 1.0, 5.0), overview(10.0, 0.0, 80.0), overview(0.0, None, None)])
    assert (totals.requests_per_s, totals.in_flight, totals.shares["429"], totals.p99_ms) == (40.0, 3, 0.75, 80.0)
    assert totals_of_overviews([]).shares["429"] is None


def test_policies_of_sidecars_are_added_up_and_marked_if_removed_or_different() -> None:
    def policy(matched: int, *, limit: str = "1/day, burst 3", removed: bool = False) -> dict[str, Any]:
        recent = {"matched": matched, "refused": matched // 2, "shadow_refused": 0}
        return {
            "name": "p",
            "shadow": False,
            "exempt": False,
            "removed": removed,
            "limit_text": limit,
            "recent": recent,
        }

    seconds = [{"policies": {"p": {"allowed": count}}} for count in (1, 2)]
    (found,) = policy_figures([{"policies": [policy(4)]}, {"policies": [policy(6)]}, {}], [{"seconds": seconds}, {}])
    assert (found.matched, found.refused, found.limit, found.removed) == (10, 5, "1/day, burst 3", False)
    assert found.per_second[-2:] == [1, 2]
    (found,) = policy_figures([{"policies": [policy(4)]}, {"policies": [policy(6, limit="2/day, burst 3")]}])
    assert found.limit == "differs by sidecar"
    (found,) = policy_figures([{"policies": [policy(4, removed=True)]}])
    assert found.removed


@pytest.mark.parametrize(
    ("key", "path"), [("b%2Fob", "b%252Fob"), ("a b", "a%2520b"), ("a/b", "a%252Fb"), ("é", "%25C3%25A9")]
)
def test_a_key_is_encoded_as_bucket_text_and_then_for_the_path(key: str, path: str) -> None:
    assert bucket_path("p", key) == f"/buckets/p/{path}"


def test_without_urls_the_sidecar_on_the_default_port_is_queried_else_the_demonstration() -> None:
    def urls(*ports: int) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in ports]

    unused, other = free_port(), free_port()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        used = listener.getsockname()[1]
        assert default_urls({"ADMIN_PORT": "1234"}, used, [used]) == urls(1234)
        assert default_urls({}, used, [used, other]) == urls(used), "as in a container"
        assert default_urls({}, unused, [used, other]) == urls(used, other), "also the one that is down"
        assert default_urls({}, unused, [other]) == urls(unused)


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([], 5, ""),
        ([0, 0], 5, "  "),
        ([1, 8], 5, "▁█"),
        ([0, 4, 8], 3, " ▄█"),
        ([8, 8, 0, 0], 2, "█ "),
        ([5, 1, 1], 2, "█▂"),
    ],
)
def test_a_sparkline_fits_its_width_with_the_newest_value_at_the_right(
    values: list[int], width: int, line: str
) -> None:
    assert sparkline(values, width) == line


@pytest.mark.slow
def test_tail_follows_refusals_of_all_sidecars_with_filters(
    pair: tuple[Sidecar, Sidecar], store_server: StoreServer
) -> None:
    for sidecar, user in zip(pair, ("tail-1", "tail 2"), strict=True):
        assert spend(sidecar, user, 5).count(429) == 2

    def shown(*arguments: str) -> list[dict[str, Any]]:
        done = run_command("tail", "--once", "--json", *admins(*pair), *arguments)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def count(*arguments: str) -> int:
        return sum(each["count"] for each in shown(*arguments))

    eventually(lambda: count("--key", "tail-1") == 2 and count("--key", "tail 2") == 2, "refusals of both")
    assert {each["sidecar"] for each in shown("--key", "tail 2")} == {f"127.0.0.1:{pair[1].admin_port}"}
    assert shown("--policy", "other") == []
    text = run_command("tail", "--once", *admins(*pair), "--key", "tail-1").stdout
    assert "users  tail-1" in text
    assert "GET /api/data from 127.0.0.1, next in " in text


def test_tail_fails_if_no_sidecar_answers_and_reports_each_once() -> None:
    done = run_command("tail", "--admin", f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, done.stderr.count("no answer")) == (1, 1)


@pytest.mark.slow
def test_tail_ends_when_its_reader_does(pair: tuple[Sidecar, Sidecar], store_server: StoreServer) -> None:
    spend(pair[0], "reader", 4)
    process = subprocess.Popen(
        [*COMMAND, "tail", *admins(pair[0])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()

    def ended() -> bool:
        spend(pair[0], "reader", 1)
        return process.poll() is not None

    eventually(ended, "the end")
    assert (process.returncode, process.stderr.read()) == (0, b"")
    process.stderr.close()
