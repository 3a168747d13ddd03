"""What an operator can see and do over the admin listener, and who may."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.admin.admin_client import ask, bucket_path
from tests.raw_client import RawClient, get
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer
from tests.sidecar import PREFIX, Config, Sidecar, configuration, run_command

TOKEN = "a token of a good length"

POLICIES: list[dict[str, object]] = [
    {
        "name": "users",
        "match": {"path": ["/api/**"]},
        "key": "header:X-User-ID | client_ip",
        "limit": "2/day",
        "burst": 3,
        "overrides": [{"key": ["vip/1"], "limit": "100/day"}, {"key": ["mallory"], "blocked": True}],
    },
    {
        "name": "keys",
        "match": {"path": ["/keys/**"], "header": {"Authorization": "Bearer hush"}},
        "key": "header:X-API-Key",
        "limit": "5/s",
        "overrides": [{"key": ["sesame"], "exempt": True}],
    },
    {"name": "staff", "match": {"path": ["/staff/**"]}, "exempt": True},
]


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.stop()


@pytest.fixture(scope="module")
def pair(shared_store_server: StoreServer, recorder: Recorder) -> Iterator[tuple[Sidecar, Sidecar]]:
    def config() -> Config:
        return configuration(shared_store_server.url, recorder.url, policies=POLICIES)

    with Sidecar(config()) as first, Sidecar(config()) as second:
        yield first, second


@pytest.fixture
def one(pair: tuple[Sidecar, Sidecar], store_server: StoreServer) -> Sidecar:
    return pair[0]


@pytest.fixture(scope="module")
def guarded(shared_store_server: StoreServer, recorder: Recorder) -> Iterator[Sidecar]:
    config = configuration(shared_store_server.url, recorder.url, policies=POLICIES, admin={"token": TOKEN})
    config["admin"]["host"] = "0.0.0.0"
    with Sidecar(config) as sidecar:
        yield sidecar


def spend(sidecar: Sidecar, user: str, count: int) -> list[int]:
    return [get(sidecar.port, "/api/data", f"X-User-ID: {user}").status for _ in range(count)]


# Buckets


def test_a_bucket_is_shown_as_it_stands_now_and_looking_takes_nothing(one: Sidecar, store_server: StoreServer) -> None:
    spend(one, "alice", 1)
    before = store_server.client.hgetall(f"{PREFIX}users:alice")
    for _ in range(5):
        status, _, bucket = ask(one, bucket_path("users", "alice"))
        assert (status, bucket["tokens"], bucket["stored"], bucket["rule"]) == (200, 2, True, "limit")
        assert 43_100 < bucket["next_token_s"] <= 43_200
        assert bucket["full_s"] == bucket["next_token_s"]
        assert bucket["ttl_s"] > 3_500
    assert store_server.client.hgetall(f"{PREFIX}users:alice") == before


def test_a_bucket_that_the_store_does_not_know_is_shown_as_it_would_begin(
    one: Sidecar, store_server: StoreServer
) -> None:
    _, _, bucket = ask(one, bucket_path("users", "nobody"))
    assert (bucket["stored"], bucket["tokens"], bucket["next_token_s"], bucket["full_s"]) == (False, 3, None, 0)
    assert store_server.client.dbsize() == 0


def test_keys_with_slashes_and_escapes_are_found_by_their_names(one: Sidecar) -> None:
    spend(one, "vip/1", 1)
    (found,) = ask(one, "/buckets?policy=users&q=vip")[2]["buckets"]
    assert found["key"] == "vip%2F1"
    _, _, bucket = ask(one, bucket_path("users", found["key"]))
    assert (bucket["rule"], bucket["tokens"], bucket["limit"]["burst"]) == ("override", 99, 100)


def test_a_blocked_key_is_shown_as_one(one: Sidecar) -> None:
    assert ask(one, bucket_path("users", "mallory"))[2]["rule"] == "blocked"


def test_a_reset_is_in_force_here_at_once_and_in_other_sidecars_within_a_second(
    pair: tuple[Sidecar, Sidecar], store_server: StoreServer
) -> None:
    first, second = pair
    assert spend(first, "bob", 4) == [200, 200, 200, 429]
    assert spend(second, "bob", 1) == [429]  # which it remembers from now on
    status, _, content = ask(first, bucket_path("users", "bob"), method="DELETE")
    assert (status, content["reset"]) == (200, True)
    assert spend(first, "bob", 1) == [200]
    eventually(lambda: spend(second, "bob", 1) == [200], "the other sidecar to ask the store again")
    assert ask(first, bucket_path("users", "never-seen"), method="DELETE")[2]["reset"] is False


def test_while_the_store_is_away_a_reset_reaches_what_is_held_locally(
    own_store_server: StoreServer, recorder: Recorder
) -> None:
    policies = [
        {
            "name": name,
            "match": {"path": [f"/{name}/**"]},
            "key": "header:X-User-ID",
            "limit": "1/day",
            "burst": 2,
            **mode,
        }
        for name, mode in (("local", {"on_store_failure": "local"}), ("strict", {"on_store_failure": "deny"}))
    ]
    with Sidecar(configuration(own_store_server.url, recorder.url, policies=policies)) as sidecar:
        own_store_server.kill()

        def asked() -> int:
            return get(sidecar.port, "/local/a", "X-User-ID: alice").status

        eventually(lambda: asked() == 429, "its share to be spent")
        status, _, content = ask(sidecar, bucket_path("local", "alice"), method="DELETE")
        assert (status, content["reset"], content["local"]) == (200, False, True)
        assert content["store_error"]
        assert [asked() for _ in range(3)] == [200, 200, 429]
        assert ask(sidecar, bucket_path("strict", "alice"), method="DELETE")[0] == 503
        told = run_command("buckets", "reset", "local", "alice", "--admin", f"http://127.0.0.1:{sidecar.admin_port}")
        assert told.returncode == 1
        assert "not reset in the store; reset where it was held locally, in 1 of 1 sidecars" in told.stdout
        assert asked() == 200


def test_buckets_are_found_in_bounded_steps_with_a_cursor(one: Sidecar, store_server: StoreServer) -> None:
    client = store_server.client
    with client.pipeline(transaction=False) as pipeline:
        for number in range(25_000):
            pipeline.hset(f"{PREFIX}users:u{number}", "tokens", 1)
        pipeline.execute()
    client.set(f"{PREFIX}users:foreign", "no bucket")
    client.config_resetstat()
    found, cursor, answers = set(), "", 0
    while True:
        _, _, page = ask(
            one, f"/buckets?policy=users&limit=1000&cursor={cursor}" if cursor else "/buckets?policy=users&limit=1000"
        )
        assert len(page["buckets"]) <= 2_500
        found |= {bucket["key"] for bucket in page["buckets"]}
        cursor, answers = page["cursor"], answers + 1
        if cursor is None:
            break
    assert len(found) == 25_001
    assert 10 <= answers <= 40
    assert store_server.calls("keys") == 0
    # A search that finds nothing looks at no more than ten thousand names an answer.
    client.config_resetstat()
    page = ask(one, "/buckets?q=there-is-none&limit=1000")[2]
    assert page["cursor"] is not None
    assert store_server.calls("scan") == 50


def test_what_a_search_asks_for_is_taken_literally(one: Sidecar) -> None:
    spend(one, "plain", 1)
    assert ask(one, "/buckets?q=pl*n")[2]["buckets"] == []
    assert ask(one, "/buckets?q=%5Ba-z%5D")[2]["buckets"] == []
    assert [each["key"] for each in ask(one, "/buckets?q=lai")[2]["buckets"]] == ["plain"]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/buckets/nothing/alice", 404, "there are: users, keys"),
        ("/buckets/staff/alice", 404, "no policy of this name that has buckets"),
        ("/buckets/users/a%20b", 400, "key: expected"),
        ("/buckets?limit=0", 400, "limit: expected a whole number from 1 to 1000"),
        ("/buckets?cursor=x", 400, "cursor: expected"),
        ("/top?limit=1000", 400, "limit: expected"),
        ("/nothing", 404, "Not Found"),
    ],
)
def test_a_wrong_question_is_answered_with_what_is_wrong(one: Sidecar, path: str, status: int, words: str) -> None:
    found, fields, content = ask(one, path)
    assert (found, fields["content-type"]) == (status, "application/problem+json")
    assert words in content["detail"]


# What is limited


def test_the_most_refused_keys_are_told_with_their_policy(one: Sidecar) -> None:
    spend(one, "eve", 9)
    spend(one, "mallory", 2)
    refused = {entry["key"]: entry for entry in ask(one, "/top?limit=256")[2]["refused"]}
    assert (refused["eve"]["policy"], refused["eve"]["count"], refused["eve"]["error"]) == ("users", 6, 0)
    assert refused["mallory"]["count"] == 2


def test_policies_are_told_with_what_they_decided_and_agree_with_the_metrics(one: Sidecar) -> None:
    before = {policy["name"]: policy for policy in ask(one, "/policies")[2]["policies"]}
    spend(one, "frank", 5)
    after = {policy["name"]: policy for policy in ask(one, "/policies")[2]["policies"]}
    grown = {
        outcome: count - before["users"]["outcomes"].get(outcome, 0)
        for outcome, count in after["users"]["outcomes"].items()
    }
    assert (grown["allowed"], grown["refused"]) == (3, 2)
    assert after["staff"]["exempt"] is True


def test_the_timeline_counts_what_was_sent_second_by_second(one: Sidecar) -> None:
    def passed() -> int:
        seconds = ask(one, "/timeline?seconds=900")[2]["seconds"]
        return sum(second["policies"].get("users", {}).get("allowed", 0) for second in seconds)

    before = passed()
    spend(one, "grace", 3)
    eventually(lambda: passed() >= before + 3, "the second to be over")


def test_events_bring_history_and_then_each_second(one: Sidecar) -> None:
    with RawClient(one.admin_port) as client:
        client.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.head().value("Content-Type").startswith("text/event-stream")
        received = b""
        while received.count(b"event: second\n") < 2:
            received += client.read(1)
    assert received.count(b"event: history\n") == 1


def test_the_configuration_is_shown_without_its_secrets(store_server: StoreServer, recorder: Recorder) -> None:
    config = configuration(
        store_server.url, recorder.url, policies=POLICIES, admin={"token": TOKEN}, store={"password": ""}
    )
    with Sidecar(config) as sidecar:
        _, _, content = ask(sidecar, "/config", Authorization=f"Bearer {TOKEN}")
        text = str(content)
        assert not any(secret in text for secret in (TOKEN, "hush", "sesame"))
        assert content["settings"]["policies"][0]["overrides"][0]["key"] == [["vip/1"]]
        assert (content["status"], len(content["hash"]), content["needs_restart"]) == ("ok", 12, [])
        sidecar.config_file.write_text("policies: 1")
        sidecar.wait_for_event("config_refused")
        _, _, content = ask(sidecar, "/config", Authorization=f"Bearer {TOKEN}")
        assert content["status"] == "stale"
        assert "policies" in content["faults"][0]
        sidecar.lines.clear()  # a refused edit is logged as an error, rightly


def test_a_request_is_explained_with_what_its_buckets_hold(one: Sidecar) -> None:
    spend(one, "heidi", 1)
    question = {"url": "/api/data", "headers": {"X-User-ID": "heidi"}, "live": True}
    _, _, answer = ask(one, "/explain", method="POST", body=question)
    first, second, third = answer["policies"]
    assert (answer["result"], first["part"], first["live"]["tokens"]) == ("limited", "applies", 2)
    assert (second["part"], second["condition"], third["part"]) == ("no_match", "path", "no_match")
    assert ask(one, bucket_path("users", "heidi"))[2]["tokens"] == 2, "explaining takes nothing"


# Who may


@pytest.mark.parametrize("path", ["/config", "/policies", "/buckets", "/top", "/timeline", "/events", "/openapi.json"])
def test_with_a_token_everything_that_tells_something_needs_it(guarded: Sidecar, path: str) -> None:
    status, fields, _ = ask(guarded, path)
    assert (status, fields["www-authenticate"]) == (401, 'Bearer realm="sidegate"')
    for wrong in ("Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \xff"):
        assert ask(guarded, path, Authorization=wrong)[0] == 401
    if path != "/events":
        assert ask(guarded, path, Authorization=f"Bearer {TOKEN}")[0] == 200


def test_probes_and_scrapes_need_no_token(guarded: Sidecar) -> None:
    assert [ask(guarded, path)[0] for path in ("/livez", "/readyz", "/metrics")] == [200, 200, 200]


def test_a_reset_without_the_token_resets_nothing(guarded: Sidecar, store_server: StoreServer) -> None:
    spend(guarded, "ivan", 2)
    assert ask(guarded, bucket_path("users", "ivan"), method="DELETE")[0] == 401
    assert store_server.client.exists(f"{PREFIX}users:ivan")


def test_a_listener_beyond_loopback_needs_a_token_of_some_length(tmp_path: Path, store_server: StoreServer) -> None:
    for admin, words in (
        ({"host": "0.0.0.0"}, "admin.host: '0.0.0.0' is not loopback; expected a token too, or 127.0.0.1"),
        ({"host": "0.0.0.0", "token": "short"}, "admin.token: is shorter than 16 characters"),
    ):
        file = tmp_path / "config.yaml"
        file.write_text(str({"admin": admin}).replace("'", '"'))
        ended = run_command("run", "--config", str(file))
        assert ended.returncode == 1
        assert words in ended.stderr


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", ""])
def test_a_name_that_was_made_to_point_here_is_refused(one: Sidecar, host: str) -> None:
    assert ask(one, "/config", Host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9901", "127.0.0.1", "127.1.2.3:80", "[::1]:9901"])
def test_this_machine_is_known_by_its_names(one: Sidecar, host: str) -> None:
    assert ask(one, "/config", Host=host)[0] == 200


def test_pages_of_other_origins_change_nothing(one: Sidecar, store_server: StoreServer) -> None:
    spend(one, "judy", 1)
    path, host = bucket_path("users", "judy"), f"127.0.0.1:{one.admin_port}"
    for fields in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        assert ask(one, path, method="DELETE", **fields)[0] == 403
    assert store_server.client.exists(f"{PREFIX}users:judy")
    assert ask(one, path, method="DELETE", Origin=f"http://{host}")[2]["reset"] is True


def test_get_changes_nothing_and_every_answer_carries_the_security_fields(one: Sidecar) -> None:
    spend(one, "ken", 1)
    for path in ("/", "/config", "/nothing", bucket_path("users", "ken"), "/static/dashboard.js"):
        _, fields, _ = ask(one, path)
        assert "script-src 'self'" in fields["content-security-policy"]
        assert "unsafe" not in fields["content-security-policy"]
        assert fields["x-content-type-options"] == "nosniff"
        assert fields["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in fields
    assert ask(one, "/explain")[0] == 405
    assert ask(one, bucket_path("users", "ken"))[2]["tokens"] == 2


def test_many_questions_at_once_are_all_answered(one: Sidecar) -> None:
    paths = ["/config", "/policies", "/buckets", "/top", "/timeline", bucket_path("users", "lea")] * 4
    with ThreadPoolExecutor(8) as pool:
        assert {answer[0] for answer in pool.map(lambda path: ask(one, path), paths)} == {200}
