"""`sidegate explain`: shows the decision for one request, without a running sidecar."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from sidegate.config import compile_policies
from sidegate.config.load import parse
from sidegate.decision.bad_request import BadRequest
from sidegate.decision.bucket import Limit, Rate
from sidegate.decision.explanation import MatchResult, explain, limit_text
from sidegate.decision.request import RequestFacts

from tests.commands.command_line import ROOT, on_a_terminal, sidegate
from tests.commands.conftest import WriteConfig
from tests.servers import StoreServer, free_port

SHOP = """
policies:
  - name: internal
    match: {client_ip: [10.0.0.0/8]}
    exempt: true
  - name: login
    match: {path: /login, method: POST, header: {X-Plan: [free, trial]}, host: [shop.example.com, "*.test"]}
    key: client_ip
    limit: 5/minute
  - name: users
    match: {path: /api/**}
    key: header:X-User-ID | client_ip
    limit: 30/minute
    burst: 40
    initial: 20
    cost: {POST: 5}
    overrides:
      - {key: mallory, blocked: true}
      - {key: monitor, exempt: true}
      - {key: alice, limit: 100/s}
  - name: trial
    match: {path: /api/**}
    key: method
    limit: 1000/hour
    shadow: true
"""


@pytest.fixture
def shop(write_config: WriteConfig) -> Path:
    return write_config(SHOP)


def parts(path: Path, *request: str) -> dict[str, str]:
    return {policy["name"]: policy["part"] for policy in sidegate("explain", path, *request, "--json").json["policies"]}


# -- as text -----------------------------------------------------------------------------------------------------------


def test_limit_of_the_demonstration_is_explained_with_bucket_and_cost() -> None:
    done = sidegate("explain", ROOT / "config.yaml", "GET", "/api/data", "-H", "X-User-ID: alice")
    assert (done.status, done.err) == (0, "")
    assert done.out == textwrap.dedent("""\
        request  GET /api/data
        path     /api/data
        client   127.0.0.1
        result   limited by ratelimit

        policy                why
        ratelimit   applies   10/minute, burst 15, initial 10; this request costs 1
                              bucket example:ratelimit:alice
        """)


def test_a_limit_on_requests_in_flight_is_explained_with_its_places(write_config: WriteConfig) -> None:
    config = write_config("policies: [{name: busy, match: {path: /a}, key: client_ip, in_flight: 2}]")
    shown = sidegate("explain", config, "GET", "/a").out
    assert "2 in flight; this request takes a place until it ends" in shown


@pytest.mark.parametrize(
    ("request_", "policy", "why"),
    [
        (["GET", "/shop"], "users", "path is /shop, expected: /api/**"),
        (["GET", "/login"], "login", "method is GET, expected: POST"),
        (["POST", "/login"], "login", "header X-Plan is absent, expected: free, trial"),
        (["POST", "/login", "-H", "X-Plan: gold"], "login", "header X-Plan is gold, expected: free, trial"),
        (["POST", "http://shop.org/login", "-H", "X-Plan: free"], "login",
         "host is shop.org, expected: shop.example.com, *.test"),
        (["POST", "/login", "-H", "X-Plan: free"], "login", "host is absent, expected: shop.example.com, *.test"),
        (["GET", "/", "--from", "192.0.2.7"], "internal", "client_ip is 192.0.2.7, expected: 10.0.0.0/8"),
    ],
)  # fmt: skip
def test_policy_that_does_not_match_shows_the_failed_condition(
    shop: Path, request_: list[str], policy: str, why: str
) -> None:
    done = sidegate("explain", shop, *request_)
    (line,) = (line for line in done.out.splitlines() if line.startswith(f"{policy} "))
    assert line.split(maxsplit=1)[1].strip() == f"no match   {why}"


@pytest.mark.parametrize(
    ("request_", "result", "line"),
    [
        (["GET", "/api/x"], "limited by users", "30/minute, burst 40, initial 20; this request costs 1"),
        (["POST", "/api/x"], "limited by users", "30/minute, burst 40, initial 20; this request costs 5"),
        (["GET", "/api/x", "-H", "X-User-ID: alice"], "limited by users",
         "100/s, burst 100 (an override for this key); this request costs 1"),
        (["GET", "/api/x", "-H", "X-User-ID: mallory"], "refused with 429: the key is blocked; nothing is charged",
         "an override blocks the key mallory"),
        (["GET", "/api/x", "-H", "X-User-ID: monitor"], "passes: only shadow policies apply",
         "an override exempts the key monitor"),
        (["GET", "/api/x", "--from", "10.1.2.3"], "passes: an exempt policy matches, so no other policy applies",
         "matches, but an exempt policy matches as well"),
        (["POST", "https://shop.example.com:8443/login", "-H", "X-Plan: trial"], "limited by login",
         "5/minute, burst 5; this request costs 1"),
        (["GET", "/"], "passes: no policy applies", "path is /, expected: /api/**"),
        (["GET", "/api/x", "--from", "2001:db8:1:2:3::4"], "limited by users",
         "bucket example:users:client_ip=2001%3Adb8%3A1%3A2%3A%3A%2F64"),
        (["GET", "/api/status"], "answered by the sidecar itself; no limit applies", "client   127.0.0.1"),
    ],
)  # fmt: skip
def test_result_of_the_request_is_one_line(shop: Path, request_: list[str], result: str, line: str) -> None:
    done = sidegate("explain", shop, *request_)
    assert f"result   {result}\n" in done.out
    assert line in done.out
    assert done.status == 0


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (["GET", "/api/%zz"], "the path holds a broken percent-escape"),
        (["GET", "/api/%252e"], "the path can be read in more than one way"),
        (["GET", "/api", "-H", "X-User-ID: a", "-H", "x-user-id: b"], "the field X-User-ID occurs 2 times"),
        (["GET", "/api", "-H", "Host: a", "-H", "Host: b"], "the field Host occurs more than once"),
    ],
)
def test_ambiguous_request_is_answered_400_with_the_reason(shop: Path, request_: list[str], why: str) -> None:
    done = sidegate("explain", shop, *request_)
    assert f"result   answered 400: {why}" in done.out
    assert sidegate("explain", shop, *request_, "--json").json["result"] == "bad_request"


def test_client_behind_a_trusted_proxy_is_shown_beside_the_connections_address() -> None:
    done = sidegate("explain", ROOT / "config.yaml", "GET", "/", "-H", "X-Forwarded-For: 192.0.2.9")
    assert "client   192.0.2.9 (the connection comes from 127.0.0.1)\n" in done.out


def test_url_sets_the_host_unless_a_header_does(shop: Path) -> None:
    url = "http://shop.example.com/login"
    assert parts(shop, "POST", url, "-H", "X-Plan: free")["login"] == "applies"
    assert parts(shop, "POST", url, "-H", "X-Plan: free", "-H", "Host: else.org")["login"] == "no_match"


def test_exemption_that_matches_only_one_reading_of_the_path_does_not_apply(write_config: WriteConfig) -> None:
    config = write_config("""
        policies:
          - {name: probe, match: {path: /api/ping}, exempt: true}
          - {name: users, match: {path: /api/**}, key: client_ip, limit: 10/minute}
    """)
    assert parts(config, "GET", "/api/ping") == {"probe": "exempts", "users": "set_aside"}
    assert parts(config, "GET", "/api%2Fping") == {"probe": "no_match", "users": "applies"}


READINGS = """
policies:
  - {name: probe, match: {path: /api/ping}, exempt: true}
  - {name: users, match: {path: "/*/ping"}, key: client_ip, limit: 10/minute}
  - {name: all, match: {path: /**}, key: client_ip, limit: 10/minute}
  - {name: rest, key: client_ip, limit: 10/minute}
"""


def test_explanation_shows_the_readings_of_the_path_that_each_policy_matches(write_config: WriteConfig) -> None:
    config = write_config(READINGS)
    text = sidegate("explain", config, "GET", "/api/ping;x").out
    assert "path     /api/ping or /api/ping;x\n" in text
    assert re.search(
        r"^probe +no match +path is /api/ping;x, expected: /api/ping\n"
        r" +the policy matches the path as /api/ping, but an exemption must match every reading$",
        text,
        re.MULTILINE,
    )
    assert re.search(r"^users +applies(.*\n){3}", text, re.MULTILINE)
    assert text.count("the policy matches the path as /api/ping\n") == 1
    assert text.count("the policy matches the path as /api/ping or /api/ping;x\n") == 1
    documents = sidegate("explain", config, "GET", "/api/ping;x", "--json").json["policies"]
    assert {each["name"]: each.get("matched_paths") for each in documents} == {
        "probe": ["/api/ping"], "users": ["/api/ping"], "all": ["/api/ping", "/api/ping;x"], "rest": None,
    }  # fmt: skip


def test_explanation_of_a_path_with_one_reading_does_not_repeat_it(write_config: WriteConfig) -> None:
    assert "matches the path" not in sidegate("explain", write_config(READINGS), "GET", "/api/ping").out


def test_control_characters_are_escaped(shop: Path) -> None:
    done = sidegate("explain", shop, "POST", "/login", "-H", "X-Plan: \x1b[31mred\x07 \u202e")
    assert r"header X-Plan is \x1b[31mred\x07 \u202e, expected" in done.out


# -- as JSON -------------------------------------------------------------------------------------------------------


def test_json_contains_the_whole_explanation(shop: Path) -> None:
    done = sidegate("explain", shop, "POST", "/api/x?y=1", "-H", "X-User-ID: bob", "--json")
    document = done.json
    assert document["result"] == "limited"
    assert (document["paths"], document["client_group"]) == (["/api/x"], "127.0.0.1")
    by_name = {policy["name"]: policy for policy in document["policies"]}
    assert by_name["users"] == {
        "name": "users", "part": "applies", "shadow": False, "key": "bob", "bucket": "example:users:bob", "cost": 5,
        "override": False, "limit": {"tokens": 1, "period_us": 2_000_000, "burst": 40, "initial": 20},
    }  # fmt: skip
    assert by_name["login"] == {
        "name": "login", "part": "no_match", "shadow": False, "condition": "path", "found": "/api/x",
        "wanted": ["/login"],
    }  # fmt: skip
    assert by_name["trial"]["shadow"]


@pytest.mark.parametrize(
    ("request_", "result"),
    [
        (["GET", "/health"], "own_page"),
        (["GET", "/api/%"], "bad_request"),
        (["GET", "/", "--from", "10.0.0.1"], "exempt"),
        (["GET", "/api/", "-H", "X-User-ID: mallory"], "blocked"),
        (["GET", "/"], "unlimited"),
        (["GET", "/api/"], "limited"),
    ],
)
def test_result_in_json_is_one_word(shop: Path, request_: list[str], result: str) -> None:
    assert sidegate("explain", shop, *request_, "--json").json["result"] == result


PROPERTY_POLICIES = compile_policies(
    parse(SHOP + "  - {name: pings, match: {path: [/api/ping, /x/ping], method: GET}, exempt: true}\n", "", {})
)


@given(
    method=st.sampled_from(["GET", "POST"]),
    segments=st.lists(
        st.sampled_from(["api", "login", "ping", "x", "..", ".", "%2F", "/", "%61pi", "%2e", ""]), max_size=5
    ),
    user=st.lists(st.sampled_from(["alice", "mallory", "monitor", "bob", ""]), max_size=2),
    plan=st.lists(st.sampled_from(["free", "gold"]), max_size=1),
    peer=st.sampled_from(["10.1.1.1", "192.0.2.1", "::1"]),
)
def test_explanation_equals_the_decision(
    method: str, segments: list[str], user: list[str], plan: list[str], peer: str
) -> None:
    fields = CIMultiDict([*(("X-User-ID", each) for each in user), *(("X-Plan", each) for each in plan)])
    fields.add("Host", "a.test")
    facts = RequestFacts(method, "/" + "/".join(segments), fields, peer)
    explanation = explain(PROPERTY_POLICIES, facts)
    if explanation.ambiguous:
        with pytest.raises(BadRequest) as refused:
            PROPERTY_POLICIES.applying(facts)
        assert explanation.ambiguous == str(refused.value)
        return
    applied = PROPERTY_POLICIES.applying(facts)
    assert list(explanation.applied) == applied
    results = {item.policy.name: item for item in explanation.considered}
    assert set(results) == {policy.name for policy in PROPERTY_POLICIES.policies}
    charges = {
        name: item.charge for name, item in results.items() if item.result in {MatchResult.APPLIES, MatchResult.BLOCKED}
    }
    assert charges == {entry.policy.name: entry.charge for entry in applied}
    exempts = any(item.result is MatchResult.EXEMPTS for item in results.values())
    set_aside = any(item.result is MatchResult.SET_ASIDE for item in results.values())
    assert not (exempts and applied)
    assert exempts or not set_aside


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (Limit(Rate(1, 6_000_000), 15, 10, 1), "10/minute, burst 15, initial 10"),
        (Limit(Rate(1, 6_000_000), 10, 10, 1), "10/minute, burst 10"),
        (Limit(Rate(1, 1_000_000), 60, 60, 1), "60/minute, burst 60"),
        (Limit(Rate(1, 1_000_000), 7, 7, 1), "1/s, burst 7"),
        (Limit(Rate(2, 5_000_000), 1, 0, 1), "24/minute, burst 1, initial 0"),
        (Limit(Rate(1, 7_000_000), 3, 3, 1), "1/7s, burst 3"),
        (Limit(Rate(1, 17_280_000), 5000, 5000, 1), "5000/day, burst 5000"),
    ],
)
def test_limit_is_formatted_with_a_usual_unit(limit: Limit, text: str) -> None:
    assert limit_text(limit) == text


# -- live ---------------------------------------------------------------------------------------------------------------


def spend(store: StoreServer, key: str, tokens: int, rate: str = "1/2000000") -> None:
    """Store a bucket with so many tokens. Its time is in the future, so that no token is added during a test."""
    store.client.hset(key, mapping={"tokens": tokens, "since": store.time_us() + 3_600_000_000, "rate": rate})


def live_shop(write_config: WriteConfig, url: str) -> Path:
    return write_config(f"store: {{url: '{url}'}}\n{SHOP}")


@pytest.mark.slow
def test_live_shows_the_present_tokens_and_charges_nothing(
    write_config: WriteConfig, store_server: StoreServer
) -> None:
    config = live_shop(write_config, store_server.url)
    spend(store_server, "example:users:bob", 7)
    before = store_server.client.hgetall("example:users:bob")
    request = ("explain", config, "GET", "/api/x", "-H", "X-User-ID: bob", "--live")
    for _ in range(2):
        done = sidegate(*request)
        assert (done.status, done.err) == (0, "")
        assert "now 7 of 40 tokens, full in 66 s\n" in done.out
        assert "now 1000 of 1000 tokens\n" in done.out
    live = {policy["name"]: policy.get("live") for policy in sidegate(*request, "--json").json["policies"]}
    assert live["users"] == {"tokens": 7, "enough": True, "retry_s": 0, "full_s": 66}
    assert live["trial"] == {"tokens": 1000, "enough": True, "retry_s": 0, "full_s": 0}
    assert live["internal"] is None
    assert store_server.client.hgetall("example:users:bob") == before
    assert store_server.buckets() == [b"example:users:bob"]


@pytest.mark.slow
def test_live_shows_when_there_are_enough_tokens(write_config: WriteConfig, store_server: StoreServer) -> None:
    config = live_shop(write_config, store_server.url)
    spend(store_server, "example:users:bob", 3)
    done = sidegate("explain", config, "POST", "/api/x", "-H", "X-User-ID: bob", "--live")
    assert "now 3 of 40 tokens" in done.out
    assert "enough for this request in 4 s\n" in done.out
    assert done.status == 0


def test_live_needs_no_store_if_nothing_is_charged(write_config: WriteConfig) -> None:
    config = live_shop(write_config, f"redis://127.0.0.1:{free_port()}")
    for request in (["GET", "/"], ["GET", "/health"], ["GET", "/api/x", "--from", "10.0.0.1"]):
        assert sidegate("explain", config, *request, "--live").status == 0


def test_unavailable_store_is_reported_after_the_explanation(write_config: WriteConfig) -> None:
    port = free_port()
    config = live_shop(write_config, f"redis://127.0.0.1:{port}")
    done = sidegate("explain", config, "GET", "/api/x", "--live")
    assert done.status == 1
    assert f"sidegate: the store at redis://127.0.0.1:{port}/0 does not answer" in done.err
    assert "result   limited by users" in done.out
    document = sidegate("explain", config, "GET", "/api/x", "--live", "--json").json
    assert document["result"] == "limited"
    assert "does not answer" in document["live_error"]


@pytest.mark.slow
def test_unreadable_bucket_is_reported(write_config: WriteConfig, store_server: StoreServer) -> None:
    config = live_shop(write_config, store_server.url)
    store_server.client.set("example:users:bob", "a string")
    done = sidegate("explain", config, "GET", "/api/x", "-H", "X-User-ID: bob", "--live")
    assert done.status == 1
    assert "unreadable_bucket" in done.err


# -- wrong usage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["get", "/"], "'get' is not a method; expected capitals, e.g. GET"),
        (["GET", "api"], "'api' is neither a path nor a URL; expected e.g. /api/data"),
        (["GET", "/a b"], "contains spaces or control characters"),
        (["GET", "/", "-H", "X-User-ID"], "'X-User-ID' is not a header field; expected e.g. 'X-User-ID: alice'"),
        (["GET", "/", "-H", "A: b\nC: d"], "is not a header field"),
        (["GET", "/", "--from", "localhost"], "'localhost' is not an IP address"),
        (["GET"], "the following arguments are required: URL"),
    ],
)
def test_wrong_usage_exits_with_2_and_the_expected_form(shop: Path, arguments: Sequence[str], complaint: str) -> None:
    done = sidegate("explain", shop, *arguments)
    assert done.status == 2
    assert complaint in done.err
    assert done.out == ""


def test_invalid_configuration_exits_with_1(write_config: WriteConfig) -> None:
    done = sidegate("explain", write_config("policies: [{name: x}]"), "GET", "/")
    assert (done.status, done.out) == (1, "")
    assert "policies[0]" in done.err


@pytest.mark.slow
def test_colours_appear_on_terminals_without_no_color() -> None:
    request = ("explain", ROOT / "config.yaml", "GET", "/api/data")
    assert "\x1b[32mapplies\x1b[0m" in on_a_terminal(*request)[1]
    assert "\x1b[3" not in on_a_terminal(*request, more={"NO_COLOR": "1"})[1]
    assert "\x1b" not in sidegate(*request).out
