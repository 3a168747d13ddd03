"""A whole sidecar as a process: limits, answers, outages, health, metrics, logs, start and stop."""

import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.raw_client import Broken, RawClient, Reply, get, request
from tests.recorder import OK, Act, Recorder, eventually
from tests.servers import StoreServer, free_port
from tests.sidecar import DEMONSTRATION, PREFIX, ROOMY, TIGHT, Config, Sidecar, configuration, run_command
from tests.structured_fields import items_of

# Several times the duration of any answer on a busy machine, and far below the timeouts of the sidecar.
SOON_S = 4.0


@pytest.fixture(scope="module")
def shared_three(shared_store_server: StoreServer, shared_recorder: Recorder) -> Iterator[list[Sidecar]]:
    def config() -> Config:
        return configuration(
            shared_store_server.url,
            shared_recorder.url,
            policies=[DEMONSTRATION],
            client_ip={"trusted_proxies": ["127.0.0.0/8"]},
        )

    with Sidecar(config()) as first, Sidecar(config()) as second, Sidecar(config()) as third:
        yield [first, second, third]


@pytest.fixture
def three(store_server: StoreServer, recorder: Recorder, shared_three: list[Sidecar]) -> list[Sidecar]:
    """Three sidecars with the demonstration's policy, one store, one application. Each test uses its own users."""
    return shared_three


@pytest.fixture
def one(three: list[Sidecar]) -> Sidecar:
    return three[0]


def user(name: str) -> str:
    return f"X-User-ID: {name}"


def let_time_pass(store: StoreServer, bucket: str, seconds: int) -> None:
    """Move `since` of a bucket into the past. A sidecar that saw it empty may remember that for a second: use another."""
    assert store.client.hincrby(bucket, "since", -seconds * 1_000_000)


def remaining(sidecar: Sidecar, *fields: str) -> int:
    (policy,) = get(sidecar.port, "/api/status", *fields).json()["policies"]
    left: int = policy["remaining"]
    return left


# The limit of the demonstration


def test_of_fifteen_requests_to_one_sidecar_ten_pass_and_five_are_refused(one: Sidecar, recorder: Recorder) -> None:
    statuses = [get(one.port, "/api/data", user("walker")).status for _ in range(15)]
    assert statuses == [200] * 10 + [429] * 5
    assert len(recorder.requests) == 10


def test_of_fifteen_requests_over_three_sidecars_ten_pass_and_five_are_refused(
    three: list[Sidecar], recorder: Recorder
) -> None:
    statuses = [get(three[n % 3].port, "/api/data", user("rambler")).status for n in range(15)]
    assert statuses == [200] * 10 + [429] * 5
    assert len(recorder.requests) == 10


def test_users_are_independent(three: list[Sidecar]) -> None:
    for _ in range(10):
        assert get(three[0].port, "/api/data", user("ann")).status == 200
    assert get(three[0].port, "/api/data", user("ann")).status == 429
    assert get(three[1].port, "/api/data", user("ben")).status == 200
    assert get(three[0].port, "/api/data", user("ben")).status == 200


def test_without_a_user_the_address_is_the_key(one: Sidecar, store_server: StoreServer) -> None:
    get(one.port, "/api/data", "X-Forwarded-For: 203.0.113.1")
    get(one.port, "/api/data", "X-Forwarded-For: 203.0.113.1", "X-User-ID:   ")
    assert store_server.client.hget(f"{PREFIX}ratelimit:client_ip=203.0.113.1", "tokens") == b"8"


def test_the_address_is_the_rightmost_one_outside_the_trusted_proxies(one: Sidecar, store_server: StoreServer) -> None:
    get(one.port, "/api/data", "X-Forwarded-For: 9.9.9.9, 10.1.1.1")
    get(one.port, "/api/data", "X-Forwarded-For: 9.9.9.9", "X-Forwarded-For: 10.1.1.1, 127.0.0.2")
    get(one.port, "/api/data", "X-Forwarded-For: 2001:db8::1")
    get(one.port, "/api/data", "X-Forwarded-For: 2001:db8::2")
    keys = {name.decode().removeprefix(f"{PREFIX}ratelimit:") for name in store_server.buckets()}
    assert keys == {"client_ip=10.1.1.1", "client_ip=2001%3Adb8%3A%3A%2F64"}


def test_the_name_of_the_identity_field_is_case_insensitive(one: Sidecar, store_server: StoreServer) -> None:
    for name in ("X-User-ID", "x-user-id", "X-USER-ID"):
        get(one.port, "/api/data", f"{name}: casey")
    assert store_server.buckets() == [f"{PREFIX}ratelimit:casey".encode()]


def test_health_is_never_limited(one: Sidecar, store_server: StoreServer) -> None:
    assert {get(one.port, "/health", user("prober")).status for _ in range(30)} == {200}
    assert store_server.buckets() == []


def test_status_shows_the_callers_own_limits_and_consumes_nothing(one: Sidecar, store_server: StoreServer) -> None:
    for _ in range(3):
        get(one.port, "/api/data", user("curious"))
    before = store_server.client.hgetall(f"{PREFIX}ratelimit:curious")
    for _ in range(5):
        reply = get(one.port, "/api/status", user("curious"))
        (policy,) = reply.json()["policies"]
        assert (policy["name"], policy["burst"], policy["remaining"]) == ("ratelimit", 15, 7)
        assert 42 < policy["reset_s"] <= 48
        assert reply.value("Cache-Control") == "no-store"
    assert store_server.client.hgetall(f"{PREFIX}ratelimit:curious") == before


def test_the_status_of_a_first_time_caller_is_a_new_bucket_and_creates_none(
    one: Sidecar, store_server: StoreServer
) -> None:
    assert remaining(one, user("stranger")) == 10
    assert store_server.buckets() == []


def test_a_bucket_in_the_store_is_readable(one: Sidecar, store_server: StoreServer) -> None:
    get(one.port, "/api/data", user("user-123"))
    bucket = store_server.client.hgetall(f"{PREFIX}ratelimit:user-123")
    assert {name: bucket[name] for name in (b"tokens", b"rate")} == {b"tokens": b"9", b"rate": b"1/6000000"}
    assert abs(int(bucket[b"since"]) - store_server.time_us()) < 60_000_000


def test_an_idle_user_has_a_burst_of_fifteen(three: list[Sidecar], store_server: StoreServer) -> None:
    for _ in range(10):
        assert get(three[0].port, "/api/data", user("rested")).status == 200
    let_time_pass(store_server, f"{PREFIX}ratelimit:rested", 3_000)
    assert [get(three[1].port, "/api/data", user("rested")).status for _ in range(16)] == [200] * 15 + [429]


def test_a_token_returns_every_six_seconds(three: list[Sidecar], store_server: StoreServer) -> None:
    for _ in range(10):
        assert get(three[0].port, "/api/data", user("patient")).status == 200
    let_time_pass(store_server, f"{PREFIX}ratelimit:patient", 13)
    assert [get(three[1].port, "/api/data", user("patient")).status for _ in range(3)] == [200, 200, 429]


def test_an_idle_bucket_expires_after_idle_ttl_and_never_before_it_is_full(
    one: Sidecar, store_server: StoreServer
) -> None:
    get(one.port, "/api/data", user("idle"))
    assert 3_590_000 < store_server.client.pttl(f"{PREFIX}ratelimit:idle") <= 3_600_000


def test_a_request_without_a_policy_is_not_limited_and_has_no_limit_fields(
    one: Sidecar, store_server: StoreServer
) -> None:
    replies = [get(one.port, "/other", user("free")) for _ in range(20)]
    assert {reply.status for reply in replies} == {200}
    assert not [name for name, _ in replies[0].fields if "ratelimit" in name.lower()]
    assert store_server.buckets() == []


# The answers


def refused(sidecar: Sidecar, name: str) -> Reply:
    for _ in range(10):
        assert get(sidecar.port, "/api/data", user(name)).status == 200
    return get(sidecar.port, "/api/data", user(name))


def test_an_allowed_answer_has_the_remaining_tokens(one: Sidecar) -> None:
    reply = get(one.port, "/api/data", user("teller"))
    assert reply.value("RateLimit-Policy") == '"ratelimit";q=15;w=90'
    assert reply.value("RateLimit") == '"ratelimit";r=9;t=6'
    assert [reply.value(f"X-RateLimit-{name}") for name in ("Limit", "Remaining", "Reset")] == ["15", "9", "36"]
    assert reply.values("Retry-After") == [], "nobody has to wait"


def test_a_refusal_has_retry_after_and_each_field_once(one: Sidecar) -> None:
    reply = refused(one, "secret-name")
    assert (reply.status, reply.reason) == (429, "Too Many Requests")
    assert reply.value("Content-Type") == "application/problem+json"
    assert reply.value("Cache-Control") == "no-store"
    assert 1 <= int(reply.value("Retry-After")) <= 6
    ((name, left),) = items_of(reply.value("RateLimit"))
    assert (name, left["r"]) == ("ratelimit", 0)
    assert 1 <= left["t"] <= 6
    problem = reply.json()
    assert problem["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert (problem["status"], problem["error"]) == (429, "rate_limit_exceeded")
    assert problem["violated-policies"] == ["ratelimit"]
    assert "secret-name" not in repr(reply)


def test_a_refusal_by_the_deny_cache_equals_one_by_the_store(one: Sidecar) -> None:
    first, second = refused(one, "twice"), get(one.port, "/api/data", user("twice"))
    assert {name for name, _ in first.fields} == {name for name, _ in second.fields}
    assert (first.status, first.body, first.values("RateLimit-Policy")) == (
        second.status,
        second.body,
        second.values("RateLimit-Policy"),
    )
    assert int(second.value("Retry-After")) <= int(first.value("Retry-After"))


def test_a_request_passes_after_retry_after(three: list[Sidecar], store_server: StoreServer) -> None:
    wait_s = int(refused(three[0], "punctual").value("Retry-After"))
    let_time_pass(store_server, f"{PREFIX}ratelimit:punctual", wait_s)
    assert get(three[1].port, "/api/data", user("punctual")).status == 200


# When the store fails


class FalseStore:
    """A server that completes the handshake of a store and answers script calls with given bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        for each in [self._listener, *self._sockets]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._sockets.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            while data := connection.recv(65_536):
                commands = len(re.findall(rb"(?:^|\n)\*\d+\r\n", data))
                connection.sendall(self._answer if b"EVAL" in data else b"+OK\r\n" * commands)


def assert_denied_soon(sidecar: Sidecar) -> None:
    started_s = time.monotonic()
    reply = get(sidecar.port, "/api/data", user("unlucky"))
    assert time.monotonic() - started_s < SOON_S
    assert (reply.status, reply.value("Content-Type")) == (503, "application/problem+json")
    assert reply.json()["type"] == "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
    assert int(reply.value("Retry-After")) >= 1
    assert not [name for name, _ in reply.fields if "ratelimit" in name.lower()]


@pytest.mark.slow
def test_a_store_that_is_down_means_503_until_it_returns(own_store_server: StoreServer, recorder: Recorder) -> None:
    with Sidecar(configuration(own_store_server.url, recorder.url, policies=[DEMONSTRATION])) as sidecar:
        assert get(sidecar.port, "/api/data", user("unlucky")).status == 200
        own_store_server.kill()
        sidecar.wait_for_event("store_unavailable")
        assert_denied_soon(sidecar)
        eventually(lambda: get(sidecar.port, "/health").status == 503, "the sidecar's health")
        health = get(sidecar.port, "/health").json()
        assert (health["status"], health["store"]["status"]) == ("down", "down")
        assert get(sidecar.port, "/other").status == 200
        assert get(sidecar.port, "/api/status", user("unlucky")).status == 503
        own_store_server.start()
        sidecar.wait_for_event("store_connected", 2)
        assert get(sidecar.port, "/api/data", user("unlucky")).value("X-RateLimit-Remaining") == "9"
    assert len(recorder.requests) == 3


@pytest.mark.slow
def test_a_store_that_hangs_means_503_within_its_timeout(own_store_server: StoreServer, recorder: Recorder) -> None:
    config = configuration(own_store_server.url, recorder.url, policies=[DEMONSTRATION], store={"timeout": "100ms"})
    with Sidecar(config) as sidecar:
        eventually(lambda: get(sidecar.port, "/api/data", user("lucky")).status == 200, "a decision")
        own_store_server.pause()
        assert_denied_soon(sidecar)
        assert_denied_soon(sidecar)
        own_store_server.resume()
        eventually(lambda: get(sidecar.port, "/api/data", user("lucky")).status == 200, "the store's return")


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        b"!what\r\n",
        b"+OK\r\n",
        b":1\r\n",
        b"*2\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"*4\r\n:1\r\n:1\r\n:1\r\n:1\r\n",
        b"*0\r\n",
        b"-ERR no\r\n",
    ],
    ids=["no protocol", "text", "a number", "texts", "too many numbers", "nothing", "an error"],
)
def test_a_store_that_answers_invalid_replies_means_503(answer: bytes, recorder: Recorder) -> None:
    nonsense = FalseStore(answer)
    try:
        with Sidecar(configuration(nonsense.url, recorder.url, policies=[DEMONSTRATION])) as sidecar:
            for _ in range(3):
                assert_denied_soon(sidecar)
    finally:
        nonsense.stop()
    assert recorder.requests == []


@pytest.mark.slow
def test_an_unreadable_bucket_affects_its_own_user_only(one: Sidecar, store_server: StoreServer) -> None:
    store_server.client.set(f"{PREFIX}ratelimit:poisoned", "no hash")
    assert get(one.port, "/api/data", user("poisoned")).status == 503
    assert get(one.port, "/api/data", user("healthy")).status == 200


@pytest.mark.slow
def test_a_policy_that_allows_forwards_without_limit_fields_and_health_is_degraded(recorder: Recorder) -> None:
    config = configuration(
        f"redis://127.0.0.1:{free_port()}", recorder.url, policies=[DEMONSTRATION], store={"on_failure": "allow"}
    )
    with Sidecar(config) as sidecar:
        replies = [get(sidecar.port, "/api/data", user("lucky")) for _ in range(20)]
        assert {reply.status for reply in replies} == {200}
        assert not [name for name, _ in replies[0].fields if "ratelimit" in name.lower()]
        health = get(sidecar.port, "/health")
        assert (health.status, health.json()["status"]) == (200, "degraded")
        assert counted(sidecar)["ratelimit", "store_allowed"] == 20
        marked = sidecar.wait_for_event("passed_unchecked")
        assert marked[0]["policies"] == {"ratelimit": "store_allowed"}

        def again() -> int:
            return sum(line["count"] for line in sidecar.wait_for_event("passed_again"))

        eventually(lambda: len(marked) + again() == 20, "the lines of all requests")


@pytest.mark.slow
def test_a_local_policy_enforces_this_proxys_share_and_its_fields_show_it(recorder: Recorder) -> None:
    config = configuration(
        f"redis://127.0.0.1:{free_port()}",
        recorder.url,
        policies=[{**DEMONSTRATION, "initial": 15}],
        store={"on_failure": "local", "replicas": 3},
    )
    with Sidecar(config) as sidecar:
        replies = [get(sidecar.port, "/api/data", user("lucky")) for _ in range(8)]
        assert [reply.status for reply in replies] == [200] * 5 + [429] * 3
        assert replies[0].value("RateLimit-Policy") == '"ratelimit";q=5;w=90'
        assert replies[0].value("X-RateLimit-Remaining") == "4"
        assert 13 <= int(replies[-1].value("Retry-After")) <= 18
        assert replies[-1].json()["violated-policies"] == ["ratelimit"]
        assert counted(sidecar)["ratelimit", "local_allowed"] == 5
        assert counted(sidecar)["ratelimit", "local_refused"] == 3
        eventually(
            lambda: (
                get(sidecar.port, "/api/data", user("lucky")).status == 429
                and metric(sidecar, "sidegate_store_breaker_state") in (1, 2)
            ),
            "an open breaker",
        )
        assert metric(sidecar, "sidegate_store_proxies") == 3
        health = get(sidecar.port, "/health")
        assert (health.status, health.json()["status"]) == (200, "degraded")
        assert health.json()["store"] == {"status": "down"}, "the public port names the part and nothing else"
        assert admin(sidecar, "/readyz").json()["store"]["reason"] == "the breaker is open: connect"
        status = get(sidecar.port, "/api/status", user("lucky"))
        assert (status.status, status.json()["policies"][0]["remaining"]) == (200, 0)
        assert len(sidecar.wait_for_event("store_breaker_open")) == 1
        assert sidecar.events("refused")[0]["store_failure"] in ("connect", "breaker_open")


# Health and the admin listener


def admin(sidecar: Sidecar, path: str) -> Reply:
    return get(sidecar.admin_port, path, "Connection: close")


def counted(sidecar: Sidecar) -> Counter[tuple[str, str]]:
    """`sidegate_requests_total` by policy and outcome."""
    found: Counter[tuple[str, str]] = Counter()
    for family in text_string_to_metric_families(admin(sidecar, "/metrics").body.decode()):
        for sample in family.samples:
            if sample.name == "sidegate_requests_total":
                found[sample.labels["policy"], sample.labels["outcome"]] += int(sample.value)
    return found


def metric(sidecar: Sidecar, name: str) -> float:
    """A metric without labels."""
    for family in text_string_to_metric_families(admin(sidecar, "/metrics").body.decode()):
        for sample in family.samples:
            if sample.name == name:
                return sample.value
    raise LookupError(name)


def test_health_names_each_part(one: Sidecar) -> None:
    health = get(one.port, "/health").json()
    assert health["status"] == "ok"
    assert (health["app"]["status"], health["store"]["status"]) == ("ok", "ok")


@pytest.mark.slow
def test_health_fails_if_the_application_is_down(store_server: StoreServer) -> None:
    with Sidecar(configuration(store_server.url, f"http://127.0.0.1:{free_port()}")) as sidecar:
        for reply in (get(sidecar.port, "/health"), admin(sidecar, "/readyz")):
            assert (reply.status, reply.json()["status"], reply.json()["app"]["status"]) == (503, "down", "down")
        assert admin(sidecar, "/livez").status == 200


def test_health_answers_head_without_a_body_and_keeps_the_connection(one: Sidecar) -> None:
    with RawClient(one.port) as client:
        assert (client.get("/health", method="HEAD").status, client.get("/health").status) == (200, 200)


def test_the_admin_listener_answers_liveness_and_readiness(one: Sidecar) -> None:
    assert admin(one, "/livez").status == 200
    assert (admin(one, "/readyz").status, admin(one, "/readyz").json()["status"]) == (200, "ok")


def test_metrics_agree_with_the_requests_sent(one: Sidecar) -> None:
    before = counted(one)
    for _ in range(13):
        get(one.port, "/api/data", user("counter"))
    for _ in range(4):
        get(one.port, "/other")
    get(one.port, "/health")
    get(one.port, "/api/status", user("counter"))
    assert counted(one) - before == {("ratelimit", "allowed"): 10, ("ratelimit", "refused"): 3, ("none", "allowed"): 4}


def test_no_metric_contains_a_value_from_a_request(one: Sidecar) -> None:
    get(one.port, "/api/unheard-of", user("unheard-of"))
    assert b"unheard-of" not in admin(one, "/metrics").body


# Logs


def logged_since(sidecar: Sidecar, before: int) -> list[dict[str, Any]]:
    return list(sidecar.lines)[before:]


@pytest.mark.slow
def test_a_flood_of_refusals_is_one_log_line_and_then_one_per_second(one: Sidecar) -> None:
    before = len(one.lines)
    for _ in range(60):
        get(one.port, "/api/data", user("flooder"))

    def mine(event: str) -> list[dict[str, Any]]:
        return [line for line in logged_since(one, before) if line["event"] == event and "flooder" in json.dumps(line)]

    eventually(lambda: sum(line["count"] for line in mine("refused_again")) == 49, "the lines that count them")
    assert len(mine("refused")) == 1
    assert len(mine("refused_again")) <= 3


def test_a_refusal_is_logged_with_bucket_path_and_retry_after(one: Sidecar) -> None:
    before = len(one.lines)
    refused(one, "known")
    eventually(lambda: [line for line in logged_since(one, before) if line.get("event") == "refused"], "the line")
    (line,) = [line for line in logged_since(one, before) if line.get("event") == "refused"]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/api/data", 429)
    assert (line["policies"], line["buckets"]) == ({"ratelimit": "refused"}, [f"{PREFIX}ratelimit:known"])
    assert line["client"] == "127.0.0.1"


def test_no_request_can_forge_a_log_line(one: Sidecar) -> None:
    before = len(one.raw_lines)
    forged = 'x"}\t{"event":"forged"}\t\xff\xe2\x80\xa8'
    for _ in range(11):
        with RawClient(one.port) as client:
            client.send(request('/api/"},{"event":"forged"}', f"X-User-ID: {forged}"))
            assert client.reply().status in (200, 400, 429)
    eventually(lambda: len(one.raw_lines) > before, "a log line")
    for raw in one.raw_lines[before:]:
        assert raw.count(b"\n") == 1
        assert not re.search(rb"[\x00-\x09\x0b-\x1f]", raw)
        assert json.loads(raw)["event"] in ("refused", "refused_again", "request")


def test_allowed_requests_are_logged_only_if_configured(one: Sidecar) -> None:
    before = len(one.raw_lines)
    for _ in range(5):
        get(one.port, "/other", user("quiet"))
    assert "quiet" not in json.dumps(logged_since(one, before))


# Start


@pytest.mark.slow
def test_a_sidecar_starts_without_its_store_and_without_its_application() -> None:
    config = configuration(f"redis://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}")
    with Sidecar(config) as sidecar:
        assert admin(sidecar, "/livez").status == 200
        assert admin(sidecar, "/readyz").status == 503


@pytest.mark.slow
def test_an_invalid_configuration_ends_the_start_with_all_errors_and_their_positions(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "listen: {port: 8080}\nstore: {timeout: never}\npolicies:\n  - name: a\n    key: client_ip\n    limit: ten\n    burts: 1\n"
    )
    result = run_command("run", "--config", str(file))
    assert result.returncode == 1
    assert result.stdout == ""
    places = {int(line) for line in re.findall(r"config\.yaml:(\d+):\d+: ", result.stderr)}
    assert {2, 6, 7} <= places
    assert "burts" in result.stderr


@pytest.mark.slow
def test_a_missing_configuration_ends_the_start(tmp_path: Path) -> None:
    result = run_command("run", "--config", str(tmp_path / "none.yaml"))
    assert (result.returncode, "none.yaml" in result.stderr, "Traceback" in result.stderr) == (1, True, False)


@pytest.mark.slow
@pytest.mark.parametrize("section", ["listen", "admin"])
def test_a_port_in_use_ends_the_start_with_a_clear_message(section: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        overriding: dict[str, Any] = {section: {"port": port}}
        config = configuration("redis://127.0.0.1:1", "http://127.0.0.1:1", **overriding)
        file = tmp_path / "config.yaml"
        file.write_text(json.dumps(config))
        result = run_command("run", "--config", str(file))
    assert result.returncode == 1
    assert str(port) in result.stderr
    assert "address already in use" in result.stderr.lower()
    assert "Traceback" not in result.stderr + result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["run", "--frobnicate"], ["run", "--config"]])
def test_wrong_usage_of_the_command_has_exit_status_2(arguments: list[str]) -> None:
    result = run_command(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert "usage: sidegate" in result.stderr


@pytest.mark.slow
def test_the_environment_sets_the_configuration_file_and_its_variables(
    store_server: StoreServer, recorder: Recorder
) -> None:
    config = configuration("${REDIS_URL}", "${UPSTREAM_URL:-http://127.0.0.1:1}")
    environment = {"REDIS_URL": store_server.url, "UPSTREAM_URL": recorder.url}
    with Sidecar(config, environment=environment) as sidecar:
        assert get(sidecar.port).status == 200


# Stop


@pytest.fixture
def stoppable(store_server: StoreServer, recorder: Recorder) -> Iterator[Sidecar]:
    with Sidecar(configuration(store_server.url, recorder.url, policies=[ROOMY, TIGHT])) as sidecar:
        yield sidecar


@pytest.mark.slow
def test_a_stopping_sidecar_finishes_its_requests_and_accepts_no_connections(
    stoppable: Sidecar, recorder: Recorder
) -> None:
    recorder.answer(Act.HOLD, OK)
    with RawClient(stoppable.port) as slow, RawClient(stoppable.port) as live:
        slow.send(request("/slow"))
        assert live.get("/health").status == 200
        recorder.wait_for(1)
        stoppable.ask_to_stop()
        stoppable.wait_for_event("draining")
        health = live.get("/health")
        assert (health.status, health.json()["status"], health.says_close) == (503, "draining", True)
        assert live.ends()
        with pytest.raises(ConnectionRefusedError):
            RawClient(stoppable.port)
        assert admin(stoppable, "/readyz").json()["status"] == "draining"
        recorder.release()
        reply = slow.reply()
        assert (reply.status, reply.complete, reply.says_close) == (200, True, True)
        assert slow.ends()
    assert stoppable.wait() == 0
    assert stoppable.events("stopped")[0]["cut_off"] == 0


@pytest.mark.slow
def test_a_request_in_transit_on_an_idle_connection_is_served_while_stopping(stoppable: Sidecar) -> None:
    with RawClient(stoppable.port) as idle:
        assert idle.get().status == 200
        stoppable.ask_to_stop()
        stoppable.wait_for_event("draining")
        reply = idle.get("/last")
        assert (reply.status, reply.says_close) == (200, True)
    assert stoppable.wait() == 0


@pytest.mark.slow
def test_an_idle_sidecar_stops_at_once_although_clients_stay_connected(stoppable: Sidecar) -> None:
    with RawClient(stoppable.port) as idle:
        assert idle.get().status == 200
        stoppable.ask_to_stop()
        assert stoppable.wait() == 0
        assert idle.ends()


@pytest.mark.slow
def test_a_request_that_exceeds_the_drain_timeout_is_cut_off(store_server: StoreServer, recorder: Recorder) -> None:
    recorder.always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Act.HOLD)
    config = configuration(store_server.url, recorder.url, listen={"drain_timeout": "300ms"})
    with Sidecar(config) as sidecar, RawClient(sidecar.port) as client:
        client.send(request("/endless"))
        assert client.head().status == 200
        sidecar.ask_to_stop()
        assert sidecar.wait() == 0
        assert sidecar.events("stopped")[0]["cut_off"] == 1
        with suppress(Broken):
            assert b"0\r\n\r\n" not in client.rest()


@pytest.mark.slow
def test_sigint_stops_the_sidecar_as_sigterm_does(stoppable: Sidecar) -> None:
    stoppable.process.send_signal(2)
    assert stoppable.wait() == 0
