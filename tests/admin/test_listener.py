"""The admin listener: pages, actions, access control."""

import contextlib
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from sidegate.admin import problems
from sidegate.admin.runbook import runbook_html

from tests.admin.admin_client import ask, bucket_path
from tests.raw_client import RawClient, get
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer, free_port
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


def test_a_bucket_is_shown_with_its_present_level_and_takes_nothing(one: Sidecar, store_server: StoreServer) -> None:
    spend(one, "alice", 1)
    before = store_server.client.hgetall(f"{PREFIX}users:alice")
    for _ in range(5):
        status, _, bucket = ask(one, bucket_path("users", "alice"))
        assert (status, bucket["tokens"], bucket["stored"], bucket["rule"]) == (200, 2, True, "limit")
        assert 43_100 < bucket["next_token_s"] <= 43_200
        assert bucket["full_s"] == bucket["next_token_s"]
        assert bucket["ttl_s"] > 3_500
    assert store_server.client.hgetall(f"{PREFIX}users:alice") == before


def test_a_bucket_that_is_not_stored_is_shown_as_a_new_one(one: Sidecar, store_server: StoreServer) -> None:
    _, _, bucket = ask(one, bucket_path("users", "nobody"))
    assert (bucket["stored"], bucket["tokens"], bucket["next_token_s"], bucket["full_s"]) == (False, 3, None, 0)
    assert store_server.buckets() == []


def test_keys_with_slashes_and_escapes_are_found_by_their_names(one: Sidecar) -> None:
    spend(one, "vip/1", 1)
    (found,) = ask(one, "/buckets?policy=users&q=vip")[2]["buckets"]
    assert found["key"] == "vip%2F1"
    _, _, bucket = ask(one, bucket_path("users", found["key"]))
    assert (bucket["rule"], bucket["tokens"], bucket["limit"]["burst"]) == ("override", 99, 100)


def test_a_blocked_key_is_shown_as_blocked(one: Sidecar) -> None:
    assert ask(one, bucket_path("users", "mallory"))[2]["rule"] == "blocked"


def test_a_reset_takes_effect_here_at_once_and_in_other_sidecars_within_a_second(
    pair: tuple[Sidecar, Sidecar], store_server: StoreServer
) -> None:
    first, second = pair
    assert spend(first, "bob", 4) == [200, 200, 200, 429]
    assert spend(second, "bob", 1) == [429]  # which it remembers from now on
    status, _, content = ask(first, bucket_path("users", "bob"), method="DELETE")
    assert (status, content["reset"]) == (200, True)
    assert spend(first, "bob", 1) == [200]
    eventually(lambda: spend(second, "bob", 1) == [200], "the other sidecar to forget the refusal")
    assert ask(first, bucket_path("users", "never-seen"), method="DELETE")[2]["reset"] is False


def test_a_reset_during_an_outage_of_the_store_resets_local_buckets(
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
        whole = b"sidegate_store_proxies 1.0\n"  # a sidecar that has just started takes half
        eventually(lambda: whole in get(sidecar.admin_port, "/metrics").body, "its share is the whole limit")
        own_store_server.kill()

        def asked() -> int:
            return get(sidecar.port, "/local/a", "X-User-ID: alice").status

        eventually(lambda: asked() == 429, "its share to be spent")
        status, _, content = ask(sidecar, bucket_path("local", "alice"), method="DELETE")
        assert (status, content["reset"], content["local"]) == (200, False, True)
        assert content["store_error"]
        assert [asked() for _ in range(3)] == [200, 200, 429]
        assert ask(sidecar, bucket_path("strict", "alice"), method="DELETE")[0] == 503
        done = run_command("buckets", "reset", "local", "alice", "--admin", f"http://127.0.0.1:{sidecar.admin_port}")
        assert done.returncode == 1
        assert "not reset in the store; local buckets reset in 1 of 1 sidecars" in done.stdout
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


def test_the_list_of_proxies_is_no_bucket(one: Sidecar, store_server: StoreServer) -> None:
    store_server.client.zadd(f"{PREFIX}proxies", {"another": 1})
    spend(one, "proxies", 1)
    (found,) = ask(one, "/buckets?q=proxies")[2]["buckets"]
    assert (found["bucket"], found["policy"]) == (f"{PREFIX}users:proxies", "users")


def test_a_search_matches_its_text_literally(one: Sidecar) -> None:
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
        ("/overview?window=60", 400, "window: expected length of the window: 1s to 900s (pattern ^"),
        ("/fleet?peers=x", 400, "peers: expected URLs of admin listeners on loopback"),
        ("/nothing", 404, "Not Found"),
    ],
)
def test_an_invalid_request_is_answered_with_its_fault(one: Sidecar, path: str, status: int, words: str) -> None:
    found, fields, content = ask(one, path)
    assert (found, fields["content-type"]) == (status, "application/problem+json")
    assert words in content["detail"]


# Figures


def test_the_keys_refused_most_are_listed_with_their_policy(one: Sidecar) -> None:
    spend(one, "eve", 9)
    spend(one, "mallory", 2)
    refused = {entry["key"]: entry for entry in ask(one, "/top?limit=256")[2]["refused"]}
    assert (refused["eve"]["policy"], refused["eve"]["count"], refused["eve"]["error"]) == ("users", 6, 0)
    assert refused["mallory"]["count"] == 2


def test_policies_show_their_decisions_since_the_start(one: Sidecar) -> None:
    before = {policy["name"]: policy for policy in ask(one, "/policies")[2]["policies"]}
    spend(one, "frank", 5)
    after = {policy["name"]: policy for policy in ask(one, "/policies")[2]["policies"]}
    grown = {
        outcome: count - before["users"]["outcomes"].get(outcome, 0)
        for outcome, count in after["users"]["outcomes"].items()
    }
    assert (grown["allowed"], grown["refused"]) == (3, 2)
    assert after["staff"]["exempt"] is True


def test_the_timeline_counts_requests_by_second(one: Sidecar) -> None:
    def passed() -> int:
        seconds = ask(one, "/timeline?seconds=900")[2]["seconds"]
        return sum(second["policies"].get("users", {}).get("allowed", 0) for second in seconds)

    before = passed()
    spend(one, "grace", 3)
    eventually(lambda: passed() >= before + 3, "the second to be over")


def test_events_send_history_and_then_each_second(one: Sidecar) -> None:
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


def test_a_request_is_explained_with_the_levels_of_its_buckets(one: Sidecar) -> None:
    spend(one, "heidi", 1)
    question = {"url": "/api/data", "headers": {"X-User-ID": "heidi"}, "live": True}
    _, _, answer = ask(one, "/explain", method="POST", body=question)
    first, second, third = answer["policies"]
    assert (answer["result"], first["part"], first["live"]["tokens"]) == ("limited", "applies", 2)
    assert (second["part"], second["condition"], third["part"]) == ("no_match", "path", "no_match")
    assert ask(one, bucket_path("users", "heidi"))[2]["tokens"] == 2, "explaining takes nothing"


# Access control


@pytest.mark.parametrize(
    "path", ["/config", "/policies", "/buckets", "/top", "/refusals", "/timeline", "/events", "/openapi.json"]
)
def test_with_a_token_every_page_with_data_needs_it(guarded: Sidecar, path: str) -> None:
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
def test_a_host_name_that_is_not_local_is_rejected(one: Sidecar, host: str) -> None:
    assert ask(one, "/config", Host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9901", "127.0.0.1", "127.1.2.3:80", "[::1]:9901"])
def test_names_of_this_machine_are_accepted(one: Sidecar, host: str) -> None:
    assert ask(one, "/config", Host=host)[0] == 200


def test_pages_of_other_origins_cannot_change_anything(one: Sidecar, store_server: StoreServer) -> None:
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


def test_concurrent_requests_are_all_answered(one: Sidecar) -> None:
    paths = ["/config", "/policies", "/buckets", "/top", "/timeline", bucket_path("users", "lea")] * 4
    with ThreadPoolExecutor(8) as pool:
        assert {answer[0] for answer in pool.map(lambda path: ask(one, path), paths)} == {200}


# The overview


def test_with_twelve_matching_policies_the_overview_shows_the_share_of_requests(
    store_server: StoreServer, recorder: Recorder
) -> None:
    tight = {"name": "tight", "match": {"path": ["/**"]}, "key": "header:X-User-ID", "limit": "1/day", "burst": 1}
    roomy = [{**tight, "name": f"roomy-{number}", "limit": "1000/day", "burst": 1000} for number in range(11)]
    with Sidecar(configuration(store_server.url, recorder.url, policies=[*roomy, tight])) as sidecar:
        spend(sidecar, "alice", 160)  # 1 passes, 159 are refused by one of twelve policies
        window = "/overview?window=60s"
        eventually(lambda: ask(sidecar, window)[2]["responses"]["429"] == 0.9938, "the second to be over")
        overview = ask(sidecar, window)[2]
        assert overview["refused_share"] == 0.9938
        assert overview["responses"] == {"2xx": 0.0063, "4xx": 0.0, "429": 0.9938, "5xx": 0.0}
        policies = {each["name"]: each["recent"] for each in ask(sidecar, "/policies?window=60s")[2]["policies"]}
        assert (policies["tight"]["matched"], policies["tight"]["refused"]) == (160, 159)
        assert policies["roomy-0"]["refused_share"] == 0.0


def test_the_overview_has_the_documented_members_and_null_without_requests(
    store_server: StoreServer, recorder: Recorder
) -> None:
    with Sidecar(configuration(store_server.url, recorder.url)) as sidecar:
        overview = ask(sidecar, "/overview")[2]
        assert set(overview) == {
            *("requests_per_s", "refused_share", "responses", "latency_ms", "in_flight"),
            *("application", "store", "config", "problem", "problems"),
        }
        assert (overview["requests_per_s"], overview["refused_share"], overview["problem"]) == (0, None, None)
        assert set(overview["responses"].values()) == {None}
        assert overview["latency_ms"]["total"] == {"p50": None, "p99": None}
        assert ask(sidecar, "/overview?window=901s")[0] == 400


@pytest.mark.slow
def test_the_overview_counts_the_requests_of_all_workers(store_server: StoreServer, recorder: Recorder) -> None:
    config = configuration(store_server.url, recorder.url, listen={"port": free_port(), "workers": 2})
    with Sidecar(config) as sidecar:
        sidecar.wait_for_event("workers_ready")
        for _ in range(40):
            get(sidecar.port, "/tight/a", "X-User-ID: ann")

        def shown() -> list[int]:
            timeline = ask(sidecar, "/timeline?seconds=900")[2]["seconds"]
            return [sum(each[name] for each in timeline) for name in ("requests", "refused")]

        eventually(lambda: shown() == [40, 38], "both workers' counts")
        assert ask(sidecar, "/overview?window=60s")[2]["refused_share"] == 0.95


def test_a_removed_policy_is_marked_while_its_requests_are_in_the_window(
    store_server: StoreServer, recorder: Recorder
) -> None:
    with Sidecar(configuration(store_server.url, recorder.url, policies=POLICIES)) as sidecar:
        spend(sidecar, "alice", 5)

        def policies() -> dict[str, dict[str, object]]:
            return {each["name"]: each for each in ask(sidecar, "/policies?window=60s")[2]["policies"]}

        eventually(lambda: policies()["users"]["recent"]["matched"] == 5, "the second to be over")  # type: ignore[index]
        sidecar.config_file.write_text(yaml.safe_dump({**sidecar.config, "policies": POLICIES[1:]}))
        sidecar.wait_for_event("config_reloaded")
        assert [each["removed"] for each in policies().values()] == [False, False, True]


def test_metrics_are_served_as_openmetrics_on_request(one: Sidecar) -> None:
    status, fields, body = ask(one, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert (status, fields["content-type"].partition(";")[0]) == (200, "application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert ask(one, "/metrics")[1]["content-type"].startswith("text/plain")


def test_labelled_counters_are_exported_from_zero(store_server: StoreServer, recorder: Recorder) -> None:
    with Sidecar(configuration(store_server.url, recorder.url)) as sidecar:
        lines = set(ask(sidecar, "/metrics")[2].decode().splitlines())
    assert {
        'sidegate_errors_total{reason="internal"} 0.0',
        'sidegate_requests_total{outcome="store_denied",policy="tight"} 0.0',
        'sidegate_store_failures_total{reason="timeout"} 0.0',
        'sidegate_decisions_total{decided_by="local"} 0.0',
        'sidegate_responses_total{class="5xx"} 0.0',
    } <= lines


def test_every_runbook_that_the_overview_names_is_a_section_of_the_page() -> None:
    source = Path(problems.__file__).read_text("utf-8")
    named = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', source))
    assert len(named) >= 6
    assert named <= set(re.findall(r'id="([^"]+)"', runbook_html()))


def test_configured_peers_are_shown_beside_this_sidecar_with_its_token(
    store_server: StoreServer, recorder: Recorder
) -> None:
    def config(*peers: str) -> Config:
        return configuration(store_server.url, recorder.url, admin={"token": TOKEN, "peers": list(peers)})

    with Sidecar(config()) as second:
        gone = f"http://127.0.0.1:{free_port()}"
        with Sidecar(config(f"http://127.0.0.1:{second.admin_port}/", gone)) as first:
            own, peer, missing = ask(first, "/fleet", Authorization=f"Bearer {TOKEN}")[2]["sidecars"]
            assert (own["url"], own["overview"]["application"]["state"]) == (None, "up")
            assert (peer["fault"], peer["overview"]["application"]["state"]) == (None, "up")
            assert (missing["overview"], missing["fault"]) == (None, "no connection: Connection refused")
            given = f"/fleet?peers=http://127.0.0.1:{second.admin_port}"
            _, other = ask(first, given, Authorization=f"Bearer {TOKEN}")[2]["sidecars"]
            assert other["fault"].startswith("answered 401"), "the token goes to configured peers only"


@pytest.mark.parametrize("peers", ["http://192.0.2.1:9901", "http://localhost.evil.example", "file:///etc/passwd"])
def test_a_query_cannot_make_the_sidecar_send_requests_to_other_machines(one: Sidecar, peers: str) -> None:
    assert ask(one, f"/fleet?peers={quote(peers)}")[0] == 400


def test_an_idle_sidecar_checks_its_application_every_few_seconds_only(store_server: StoreServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as application:
        application.setblocking(False)
        url = f"http://127.0.0.1:{application.getsockname()[1]}"
        with Sidecar(configuration(store_server.url, url)) as sidecar:

            def ticks() -> int:
                return len(ask(sidecar, "/timeline?seconds=900")[2]["seconds"])

            eventually(lambda: ticks() >= 4, "four seconds")
            seconds = ticks()
        accepted = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                application.accept()[0].close()
                accepted += 1
    assert 1 <= accepted <= 2 + seconds // 5
