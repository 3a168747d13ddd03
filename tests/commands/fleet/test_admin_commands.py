"""status, top and buckets: what they tell of running sidecars, and how they end."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sidegate.commands.fleet.traffic import sparkline, traffic_of

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


@pytest.mark.slow
def test_status_tells_of_all_sidecars_and_fails_where_one_does_not_answer(pair: tuple[Sidecar, Sidecar]) -> None:
    shown = run_command("status", *admins(*pair))
    assert (shown.returncode, shown.stdout.count("ok")) == (0, 8), shown.stdout
    gone = f"http://127.0.0.1:{free_port()}"
    shown = run_command("status", *admins(pair[0]), "--admin", gone, "--json")
    found = json.loads(shown.stdout)
    assert shown.returncode == 1
    assert [each["status"] for each in found["sidecars"]] == ["ok", "unreachable"]
    assert "no answer" in found["sidecars"][1]["reasons"][0]


@pytest.mark.slow
def test_status_says_when_sidecars_do_not_decide_alike(
    pair: tuple[Sidecar, Sidecar], store_server: StoreServer
) -> None:
    other = configuration(store_server.url, pair[0].config["upstream"]["url"], policies=[{**POLICIES[0], "burst": 4}])
    with Sidecar(other) as third:
        shown = run_command("status", *admins(pair[0], third))
        assert shown.returncode == 1
        assert "do not decide alike" in shown.stdout


@pytest.mark.slow
def test_top_adds_up_what_all_sidecars_decided(pair: tuple[Sidecar, Sidecar], store_server: StoreServer) -> None:
    for sidecar in pair:
        spend(sidecar, "alice", 4)

    def told() -> dict[str, Any]:
        shown = run_command("top", "--json", *admins(*pair))
        assert shown.returncode == 0
        found: dict[str, Any] = json.loads(shown.stdout)
        return found

    eventually(lambda: told()["policies"].get("users") == {"allowed": 3, "refused": 5}, "the second to be over")
    (key,) = told()["refused"]
    assert (key["key"], key["count"], key["error"]) == ("alice", 5, 0)
    screen = run_command("top", "--once", *admins(*pair))
    assert screen.returncode == 0
    assert all(word in screen.stdout for word in ("users", "alice", "up", "█"))
    assert run_command("top", "--once", "--admin", f"http://127.0.0.1:{free_port()}").returncode == 1


@pytest.mark.slow
def test_an_outage_of_the_store_is_told_by_breaker_and_by_the_outcomes_it_brings(own_store_server: StoreServer) -> None:
    recorder = Recorder()
    policies = [{**POLICIES[0], "on_store_failure": "local"}]
    config = configuration(own_store_server.url, recorder.url, policies=policies, store={"timeout": "50ms"})
    with Sidecar(config) as sidecar:
        own_store_server.pause()  # it stays connected, so only the breaker tells

        def told() -> str:
            spend(sidecar, "alice", 3)
            return run_command("top", "--once", *admins(sidecar)).stdout

        eventually(lambda: "breaker" in told(), "the breaker")
        eventually(lambda: "local refused/s" in told(), "what was decided without the store")
        assert "local allowed/s" in told()
        assert "store denied/s" not in told()
        shown = run_command("status", *admins(sidecar))
        words = " ".join(shown.stdout.split())
        assert shown.returncode == 1
        assert "degraded" in words
        assert "decided without the store:" in words
        (row,) = json.loads(run_command("status", "--json", *admins(sidecar)).stdout)["sidecars"]
        assert row["breakers"][0]["state"] in ("open", "probing")
        assert row["without_store_per_s"]["local_refused"] > 0
        own_store_server.resume()
        eventually(lambda: "breaker" not in told(), "the end of the outage")
    recorder.stop()


@pytest.mark.slow
def test_buckets_are_listed_shown_and_reset_in_all_sidecars_at_once(
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
    again = run_command("buckets", "show", "nothing", "x", *admins(first))
    assert again.returncode == 1
    assert "there are: users" in again.stderr


def test_what_is_no_admin_listener_is_a_misuse() -> None:
    shown = run_command("status", "--admin", "localhost:9901")
    assert shown.returncode == 2
    assert "expected e.g. http://127.0.0.1:9901" in shown.stderr


def test_timelines_of_sidecars_are_put_side_by_side_at_their_newest_second() -> None:
    def second(count: int) -> dict[str, object]:
        return {"policies": {"p": {"allowed": count}}}

    traffic = traffic_of([{"seconds": [second(1), second(2)], "state": {}}, {"seconds": [second(10)], "state": {}}, {}])
    assert traffic.by_second["p"] == [1, 12]
    assert traffic.total == 13


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([], 5, ""),
        ([0, 0], 5, "  "),
        ([1, 8], 5, "▂█"),
        ([0, 4, 8], 3, " ▅█"),
        ([8, 8, 0, 0], 2, "█ "),
        ([5, 1, 1], 2, "█▂"),
    ],
)
def test_a_sparkline_fits_its_width_and_the_newest_stands_at_the_right(
    values: list[int], width: int, line: str
) -> None:
    assert sparkline(values, width) == line
