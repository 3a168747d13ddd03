"""Several policies on one request, and identities that cannot be forged, through a sidecar process."""

from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.raw_client import Reply, get
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer
from tests.sidecar import PREFIX, Sidecar, configuration, spent
from tests.structured_fields import items_of

# All rates are so low that no token grows during a test.
Policy = dict[str, Any]
USER: Policy = {
    "name": "user",
    "match": {"path": "/api/**"},
    "key": "header:X-User-ID",
    "limit": "3/day",
    "overrides": [{"key": "banned", "blocked": True}, {"key": "crawler", "limit": "1/day"}],
}
HOURLY: Policy = {"name": "hourly", "match": {"path": "/api/**"}, "key": "header:X-User-ID", "limit": "5/h"}
TENANT: Policy = {"name": "tenant", "match": {"path": "/api/**"}, "key": "header:X-Tenant | client_ip", "limit": "4/h"}
TRIAL: Policy = {
    "name": "trial",
    "match": {"path": "/api/**"},
    "key": "header:X-User-ID",
    "limit": "1/day",
    "shadow": True,
}
# The rules of the identity cases: by user, by path, by address.
PERSON: Policy = {"name": "person", "match": {"path": "/id/**"}, "key": "header:X-User-ID", "limit": "5/day"}
EXPENSIVE: Policy = {
    "name": "expensive",
    "match": {"path": "/api2/expensive"},
    "key": "header:X-Case",
    "limit": "2/day",
}
EVERYBODY: Policy = {"name": "address", "match": {"path": "/by-address/**"}, "key": "client_ip", "limit": "100/day"}


@pytest.fixture(scope="module")
def shared_sidecar(shared_store_server: StoreServer, shared_recorder: Recorder) -> Iterator[Sidecar]:
    policies = [USER, HOURLY, TENANT, TRIAL, PERSON, EXPENSIVE, EVERYBODY]
    config = configuration(shared_store_server.url, shared_recorder.url, policies=policies, log={"requests": "all"})
    with Sidecar(config) as sidecar:
        yield sidecar


@pytest.fixture
def sidecar(store_server: StoreServer, recorder: Recorder, shared_sidecar: Sidecar) -> Sidecar:
    """A sidecar with an empty store. Each test uses its own users and tenants, because refusals are cached."""
    return shared_sidecar


def send(sidecar: Sidecar, user: str, tenant: str) -> Reply:
    return get(sidecar.port, "/api/data", f"X-User-ID: {user}", f"X-Tenant: {tenant}")


def taken(store: StoreServer, policy: dict[str, Any]) -> dict[str, int]:
    """Tokens taken from each bucket of a policy."""
    return spent(store, policy["name"], int(policy["limit"].partition("/")[0]))


# -- several limits on one request ------------------------------------------------------------------------------------


def test_a_request_is_charged_on_every_policy_that_matches(sidecar: Sidecar, store_server: StoreServer) -> None:
    assert send(sidecar, "each", "each-co").status == 200
    assert [taken(store_server, policy) for policy in (USER, HOURLY, TENANT, TRIAL)] == [
        {"each": 1},
        {"each": 1},
        {"each-co": 1},
        {"each": 1},
    ]


def test_a_request_that_one_policy_refuses_is_charged_on_none(
    sidecar: Sidecar, store_server: StoreServer, recorder: Recorder
) -> None:
    assert [send(sidecar, "ann", "ann-co").status for _ in range(3)] == [200, 200, 200]
    for _ in range(4):
        reply = send(sidecar, "ann", "ann-co")
        assert (reply.status, reply.json()["violated-policies"]) == (429, ["user"])
    assert taken(store_server, HOURLY) == {"ann": 3}
    assert taken(store_server, TENANT) == {"ann-co": 3}
    assert len(recorder.requests) == 3


def test_a_refusal_by_the_tenants_bucket_costs_its_users_nothing(sidecar: Sidecar, store_server: StoreServer) -> None:
    assert [send(sidecar, user, "shared-co").status for user in ("ben", "ben", "cem", "cem")] == [200] * 4
    reply = send(sidecar, "cem", "shared-co")
    assert (reply.status, reply.json()["violated-policies"]) == (429, ["tenant"])
    assert taken(store_server, USER) == {"ben": 2, "cem": 2}
    assert send(sidecar, "cem", "other-co").status == 200


def test_retry_after_is_the_time_until_all_policies_would_pass(sidecar: Sidecar) -> None:
    for user in ("dan", "dan", "dan", "eve"):
        assert send(sidecar, user, "late-co").status == 200
    # The tenant's next token comes in 15 minutes, dan's in 8 hours.
    tenant_only = send(sidecar, "eve", "late-co")
    assert tenant_only.json()["violated-policies"] == ["tenant"]
    assert 800 < int(tenant_only.value("Retry-After")) <= 900
    both = send(sidecar, "dan", "late-co")
    assert both.status == 429
    assert 28_700 < int(both.value("Retry-After")) <= 28_800


def test_a_refusal_names_every_policy_that_refuses(sidecar: Sidecar) -> None:
    for user in ("fay", "fay", "fay", "gil"):
        assert send(sidecar, user, "full-co").status == 200
    assert send(sidecar, "fay", "full-co").json()["violated-policies"] == ["user", "tenant"]


def test_the_structured_fields_of_an_allowed_answer_list_each_policy(sidecar: Sidecar) -> None:
    reply = send(sidecar, "hal", "hal-co")
    assert items_of(reply.value("RateLimit-Policy")) == [
        ("user", {"q": 3, "w": 86_400}),
        ("hourly", {"q": 5, "w": 3_600}),
        ("tenant", {"q": 4, "w": 3_600}),
    ]
    left = items_of(reply.value("RateLimit"))
    assert [(name, item["r"]) for name, item in left] == [("user", 2), ("hourly", 4), ("tenant", 3)]
    assert [item["t"] for _, item in left] == [28_800, 720, 900]
    assert [reply.value(f"X-RateLimit-{name}") for name in ("Limit", "Remaining", "Reset")] == ["3", "2", "28800"]


def test_the_structured_fields_of_a_refusal_list_each_policy(sidecar: Sidecar) -> None:
    for _ in range(3):
        passed = send(sidecar, "ivy", "ivy-co")
    reply = send(sidecar, "ivy", "ivy-co")
    assert reply.status == 429
    assert reply.value("RateLimit-Policy") == passed.value("RateLimit-Policy")
    item = dict(items_of(reply.value("RateLimit")))
    assert item["user"]["r"] == 0
    assert 0 < item["user"]["t"] <= int(reply.value("Retry-After"))
    assert reply.value("X-RateLimit-Limit") == "3"


def test_the_x_ratelimit_fields_describe_the_policy_nearest_its_end(sidecar: Sidecar) -> None:
    for user in ("jo", "kim", "lee"):
        reply = send(sidecar, user, "near-co")
    # The tenant has 1 of 4 left, the user 2 of 3.
    assert [reply.value(f"X-RateLimit-{name}") for name in ("Limit", "Remaining")] == ["4", "1"]


def test_a_shadow_policy_on_the_same_key_neither_refuses_nor_changes_charges(
    sidecar: Sidecar, store_server: StoreServer
) -> None:
    before = counted(sidecar, "trial", "shadow_refused")
    replies = [send(sidecar, "mia", "mia-co") for _ in range(3)]
    assert [reply.status for reply in replies] == [200] * 3
    assert taken(store_server, USER) == {"mia": 3}
    assert taken(store_server, TRIAL) == {"mia": 1}
    assert counted(sidecar, "trial", "shadow_refused") == before + 2
    assert "trial" not in "".join(value for _, value in replies[-1].fields)
    shown = get(sidecar.port, "/api/status", "X-User-ID: mia", "X-Tenant: mia-co").json()["policies"]
    assert [(each["shadow"], each["remaining"]) for each in shown if each["name"] == "trial"] == [(True, 0)]
    lines = [line for line in sidecar.events("request") if f"{PREFIX}user:mia" in line.get("buckets", ())]
    eventually(lambda: len(requests_of(sidecar, "mia")) == 3, "three log lines")
    outcomes = [line["policies"]["trial"] for line in requests_of(sidecar, "mia")]
    assert outcomes == ["allowed", "shadow_refused", "shadow_refused"], lines


def requests_of(sidecar: Sidecar, user: str) -> list[dict[str, Any]]:
    return [line for line in sidecar.events("request") if f"{PREFIX}user:{user}" in line.get("buckets", ())]


def counted(sidecar: Sidecar, policy: str, outcome: str) -> int:
    text = get(sidecar.admin_port, "/metrics", "Connection: close").body.decode()
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "sidegate_requests_total"
        and (sample.labels["policy"], sample.labels["outcome"]) == (policy, outcome)
    )


def test_a_blocked_key_is_refused_and_charged_on_none(sidecar: Sidecar, store_server: StoreServer) -> None:
    reply = send(sidecar, "banned", "banned-co")
    assert (reply.status, reply.json()["violated-policies"]) == (429, ["user"])
    assert store_server.buckets() == []


def test_an_override_changes_the_limit_of_its_key_only(sidecar: Sidecar) -> None:
    assert [send(sidecar, "crawler", "crawler-co").status for _ in range(2)] == [200, 429]
    assert [send(sidecar, "reader", "reader-co").status for _ in range(2)] == [200, 200]


# -- identities -------------------------------------------------------------------------------------------------------


def person(sidecar: Sidecar, *fields: str) -> int:
    return get(sidecar.port, "/id/x", *fields).status


def test_callers_without_an_identity_share_one_bucket(sidecar: Sidecar, store_server: StoreServer) -> None:
    statuses = [
        person(sidecar, *fields) for fields in ((), ("X-User-ID:",), ("X-User-ID:  \t ",), ("X-Other: a",), (), ())
    ]
    assert statuses == [200] * 5 + [429]
    assert taken(store_server, PERSON) == {"anonymous": 5}


def test_no_identity_can_name_the_anonymous_bucket(sidecar: Sidecar, store_server: StoreServer) -> None:
    assert person(sidecar, "X-User-ID: anonymous") == 200
    assert taken(store_server, PERSON) == {"%61nonymous": 1}


def test_long_identities_use_as_little_memory_as_short_ones(sidecar: Sidecar, store_server: StoreServer) -> None:
    for number in range(20):
        assert person(sidecar, f"X-User-ID: {number:08000d}") == 200
    keys = store_server.buckets()
    assert len(keys) == 20
    assert all(len(key) <= len(PREFIX) + len("person:") + 64 for key in keys)
    assert all((store_server.client.memory_usage(key) or 0) <= 200 for key in keys)


def test_identities_with_special_characters_share_no_bucket(sidecar: Sidecar, store_server: StoreServer) -> None:
    identities = [
        "a*b?[c]",
        "a%0d%0a",
        "a:b",
        "a",
        "a,b",
        "a=b",
        "{a}1",
        "x{a}",
        "client_ip=127.0.0.1",
        "ä",
        "Ã¤",
        "a b",
    ]
    for identity in identities:
        assert person(sidecar, f"X-User-ID: {identity}") == 200
    keys = list(taken(store_server, PERSON))
    assert len(set(keys)) == len(identities)
    assert not [key for key in keys if set(key) & set("{}:*?[ ")]


def test_an_identity_outside_ascii_is_one_bucket_by_its_bytes(sidecar: Sidecar, store_server: StoreServer) -> None:
    for _ in range(2):
        assert person(sidecar, "X-User-ID: \xfc\xff") == 200  # sent as these two bytes, which are invalid UTF-8
    assert taken(store_server, PERSON) == {"%FC%FF": 2}


def test_two_identities_in_one_request_are_refused_and_charged_on_none(
    sidecar: Sidecar, store_server: StoreServer, recorder: Recorder
) -> None:
    assert person(sidecar, "X-User-ID: alice", "x-user-id: bob") == 400
    assert store_server.buckets() == []
    assert recorder.requests == []


def test_addresses_that_a_client_claims_do_not_select_its_bucket(
    sidecar: Sidecar, store_server: StoreServer, recorder: Recorder
) -> None:
    statuses = [
        get(sidecar.port, "/by-address/x", f"X-Forwarded-For: 1.2.3.{number}").status for number in range(1, 111)
    ]
    assert statuses == [200] * 100 + [429] * 10
    assert taken(store_server, EVERYBODY) == {"127.0.0.1": 100}
    assert {request.value("x-forwarded-for") for request in recorder.requests} == {b"127.0.0.1"}


# Spellings that reach the handler of the path in at least one server that was tested.
SPELLINGS = [
    "/api2//expensive",
    "/api2/./expensive",
    "/./api2/expensive",
    "/api2/%2e/expensive",
    "//api2/expensive",
    "/api2/%65xpensive",
    "/%61pi2/expensive",
    "/api2%2fexpensive",
    "/api2%2Fexpensive",
    "/api2/expensive/",
    "/api2/expensive;x=1",
    "/api2;v=2/expensive",
    "/api2/ex%ffpensive",
    "/api2%c0%af/expensive",
    "/api2/%2e/expen%E4sive;x",
    "/api2/expensive?",
    "/api2/expensive?x=1",
    "/api2/expensive#f",
    "http://app.test/api2/expensive",
]


@pytest.mark.parametrize("target", SPELLINGS)
def test_no_spelling_of_a_path_bypasses_its_limit(target: str, sidecar: Sidecar, recorder: Recorder) -> None:
    case = f"X-Case: {target}"
    assert [get(sidecar.port, "/api2/expensive", case).status for _ in range(2)] == [200, 200]
    assert get(sidecar.port, target, case).status == 429
    assert len(recorder.requests) == 2


@pytest.mark.parametrize(
    "target",
    ["/api2/%252e/expensive", "/api2%252fexpensive", "/api2/expensive%00", "/api2\\expensive", "/../api2/expensive", "/a%zz",
     "/api2/x/../expensive", "/api2/x/%2e%2e/expensive", "/api2/expensive%0a", "/x/..;/api2/expensive", "/x/.%ff./api2/expensive"],
)  # fmt: skip
def test_a_path_with_more_than_one_reading_is_refused(target: str, sidecar: Sidecar, recorder: Recorder) -> None:
    assert get(sidecar.port, target, "X-Case: doubtful").status == 400
    assert recorder.requests == []


@pytest.mark.parametrize(
    "target", ["/api2/expensive%20", "/api2/expensive.", "/api2/expensive%3F", "/api2/expensive/x"]
)  # fmt: skip
def test_a_spelling_that_no_server_maps_to_the_path_is_another_path(
    target: str, sidecar: Sidecar, recorder: Recorder
) -> None:
    case = f"X-Case: other {target}"
    assert [get(sidecar.port, target, case).status for _ in range(3)] == [200] * 3
    assert [request.target for request in recorder.requests] == [target.encode()] * 3
