"""Which policies apply to a request, and what each charges."""

import re
from ipaddress import ip_network

import pytest
from sidegate.decision.bad_request import BadRequest
from sidegate.decision.bucket import Limit, Rate
from sidegate.decision.match import FieldMatch, Match
from sidegate.decision.policy import Override, Policy, PolicySet
from sidegate.decision.request import RequestFacts

from tests.decision.asked import LOOPBACK, MINUTELY, bucket_of, facts, key

USER = key("header:X-User-ID | client_ip")
FAST = Limit(Rate(100, 1_000_000), 100, 100, 1)


def applying(request: RequestFacts, *policies: Policy) -> list[str]:
    """Names of the policies that apply."""
    compiled = PolicySet(policies, LOOPBACK, "example:")
    found = [entry.policy.name for entry in compiled.applying(request)]
    assert found == [entry.policy.name for entry in compiled.applying(request)]  # now from the cache
    return found


def applies(match: Match, request: RequestFacts) -> bool:
    return applying(request, Policy("p", match, USER, MINUTELY)) == ["p"]


# -- what a policy matches --------------------------------------------------------------------------------------------


def test_a_policy_without_conditions_applies_to_everything() -> None:
    assert applies(Match(), facts())
    assert applies(Match(), facts(method="DELETE", target="*", peer=""))


def test_every_policy_that_matches_applies_in_the_order_of_the_configuration() -> None:
    policies = [
        Policy(name, Match(methods=methods), USER, MINUTELY)
        for name, methods in (
            ("third", frozenset[str]()),
            ("first", frozenset({"GET", "POST"})),
            ("second", frozenset({"POST"})),
        )
    ]
    assert applying(facts(), *policies) == ["third", "first"]
    assert applying(facts(method="POST"), *policies) == ["third", "first", "second"]


def test_all_conditions_must_hold() -> None:
    match = Match(
        paths=(re.compile("/api/.*"),),
        methods=frozenset({"POST"}),
        fields=(FieldMatch("X-Plan", re.compile("free")),),
        hosts=(re.compile("api.example.com"),),
        client_ip=(ip_network("192.0.2.0/24"),),
    )
    fitting = {"method": "POST", "target": "/api/data", "peer": "192.0.2.7"}
    fields = [("X-Plan", "free"), ("Host", "API.example.com:80")]
    assert applies(match, facts(*fields, **fitting))
    for other in ({"method": "GET"}, {"target": "/other"}, {"peer": "198.51.100.1"}):
        assert not applies(match, facts(*fields, **fitting | other))
    assert not applies(match, facts(fields[0], **fitting))
    assert not applies(match, facts(fields[1], **fitting))


def test_any_of_a_conditions_alternatives_suffices() -> None:
    match = Match(paths=(re.compile("/a"), re.compile("/b(/.*)?")))
    assert [applies(match, facts(target=target)) for target in ("/a", "/a/x", "/b", "/b/x/y", "/c")] == [
        *(True, False, True, True, False),
    ]


@pytest.mark.parametrize(
    ("pattern", "values", "matches"),
    [
        ("free", ["free"], True),
        ("free", [" free\t"], True),
        ("free", ["paid", "free"], True),
        ("free", ["freedom"], False),
        ("free", ["a free"], False),
        ("free", [""], False),
        ("free", [], False),
        (None, ["any"], True),
        (None, [""], True),
        (None, [], False),
    ],
)
def test_a_field_matches_by_a_whole_value_or_by_its_presence(
    pattern: str | None, values: list[str], matches: bool
) -> None:
    condition = FieldMatch("X-Plan", None if pattern is None else re.compile(pattern))
    assert applies(Match(fields=(condition,)), facts(*(("x-plan", value) for value in values))) is matches


@pytest.mark.parametrize("host", ["api.example.com", "API.example.com", "api.example.com:8080", "api.example.com."])
def test_a_host_matches_in_every_spelling(host: str) -> None:
    assert applies(Match(hosts=(re.compile(r"api\.example\.com"),)), facts(("Host", host)))


@pytest.mark.parametrize("host", ["example.com", "xapi.example.com", "api.example.com.evil.test", ""])
def test_another_host_does_not_match(host: str) -> None:
    assert not applies(Match(hosts=(re.compile(r"api\.example\.com"),)), facts(("Host", host)))


def test_a_host_given_twice_is_a_bad_request_where_it_decides() -> None:
    with pytest.raises(BadRequest):
        applies(Match(hosts=(re.compile(".*"),)), facts(("Host", "a"), ("Host", "b")))


@pytest.mark.parametrize(
    ("peer", "forwarded", "matches"),
    [
        ("10.1.2.3", [], True),
        ("11.1.2.3", [], False),
        ("127.0.0.1", ["10.1.2.3"], True),
        ("11.1.2.3", ["10.1.2.3"], False),
        ("::ffff:10.1.2.3", [], True),
        ("2001:db8::1", [], True),
        ("2001:db9::1", [], False),
    ],
)
def test_a_client_address_matches_by_network(peer: str, forwarded: list[str], matches: bool) -> None:
    match = Match(client_ip=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")))
    assert applies(match, facts(*(("X-Forwarded-For", hop) for hop in forwarded), peer=peer)) is matches


def test_a_long_path_matches_as_a_short_one() -> None:
    match = Match(paths=(re.compile("(/x)+"),))
    assert applies(match, facts(target="/x" * 900))
    assert not applies(match, facts(target="/x" * 900 + "/y"))


# -- what each charges ------------------------------------------------------------------------------------------------


def test_a_bucket_is_named_by_prefix_policy_and_key() -> None:
    policies = PolicySet([Policy("ratelimit", key=USER, limit=MINUTELY)], LOOPBACK, "example:")
    (applied,) = policies.applying(facts(("X-User-ID", "user-123")))
    assert applied.charge is not None
    assert applied.charge.key == "example:ratelimit:user-123"
    assert (applied.charge.limit, applied.charge.cost, applied.charge.shadow) == (MINUTELY, 1, False)
    assert policies.key_in(applied.charge.key, applied.policy) == "user-123"


def test_no_two_policies_share_a_bucket() -> None:
    """Not even where a name and an identity meet at the separator."""
    names, users = ["rl", "rl:a", "rl:a:b"], ["a", "a:b", "b", "a:b:c", ":", "a%3Ab"]
    buckets = set()
    for name in names:
        policies = PolicySet([Policy(name, key=USER, limit=MINUTELY)], LOOPBACK, "")
        for user in users:
            (applied,) = policies.applying(facts(("X-User-ID", user)))
            assert applied.charge is not None
            buckets.add(applied.charge.key)
    assert len(buckets) == len(names) * len(users)


@pytest.mark.parametrize(("method", "cost"), [("GET", 1), ("HEAD", 0), ("POST", 5), ("DELETE", 3)])
def test_a_cost_may_depend_on_the_method(method: str, cost: int) -> None:
    policy = Policy("p", key=USER, limit=MINUTELY, cost=3, costs={"GET": 1, "HEAD": 0, "POST": 5})
    (applied,) = PolicySet([policy], LOOPBACK, "").applying(facts(method=method))
    assert applied.charge is not None
    assert applied.charge.cost == cost


def test_a_shadow_policy_makes_a_shadow_charge() -> None:
    (applied,) = PolicySet([Policy("p", key=USER, limit=MINUTELY, shadow=True)], LOOPBACK, "").applying(facts())
    assert applied.charge is not None
    assert applied.charge.shadow


# -- overrides --------------------------------------------------------------------------------------------------------


def charge_of(user: str, override: Override, *named: str) -> object:
    policy = Policy("p", key=USER, limit=MINUTELY, overrides={(name,): override for name in named})
    applied = PolicySet([policy], LOOPBACK, "").applying(facts(("X-User-ID", user)))
    if not applied:
        return "exempt"
    return "blocked" if applied[0].charge is None else applied[0].charge.limit


def test_an_override_gives_named_keys_another_limit() -> None:
    override = Override(limit=FAST)
    assert [charge_of(user, override, "alice", "bob") for user in ("alice", "bob", "carol", "Alice", " alice ")] == [
        *(FAST, FAST, MINUTELY, MINUTELY, FAST),
    ]


def test_an_override_blocks_or_exempts() -> None:
    assert charge_of("alice", Override(blocked=True), "alice") == "blocked"
    assert charge_of("alice", Override(exempt=True), "alice") == "exempt"
    assert charge_of("bob", Override(blocked=True), "alice") == MINUTELY


def test_an_override_is_found_by_the_value_as_sent_however_it_is_stored() -> None:
    odd = "a:b/{c} " + "x" * 200 + "é"
    assert charge_of(odd, Override(limit=FAST), odd) == FAST


def test_an_exempt_key_of_one_policy_is_still_limited_by_the_others() -> None:
    exempting = Policy("a", key=USER, limit=MINUTELY, overrides={("alice",): Override(exempt=True)})
    assert applying(facts(("X-User-ID", "alice")), exempting, Policy("b", key=USER, limit=MINUTELY)) == ["b"]


def test_an_override_of_an_address_means_that_client_and_nobody_who_sends_its_address_as_a_name() -> None:
    exempt: dict[tuple[str, ...], Override] = {
        ("192.0.2.7",): Override(exempt=True),
        ("2001:db8::/64",): Override(exempt=True),
    }
    policy = Policy("p", key=USER, limit=MINUTELY, overrides=exempt)
    assert applying(facts(peer="192.0.2.7"), policy) == []
    assert applying(facts(peer="2001:db8::5"), policy) == []
    for forged in ("192.0.2.7", "2001:db8::/64"):
        assert applying(facts(("X-User-ID", forged), peer="198.51.100.1"), policy) == ["p"]
        assert applying(facts(("X-User-ID", forged), peer="192.0.2.7"), policy) == ["p"]


def test_an_override_of_an_address_in_one_part_of_a_key_means_the_client_too() -> None:
    composite = key("method", "header:X-User-ID | client_ip")
    policy = Policy("p", key=composite, limit=MINUTELY, overrides={("GET", "192.0.2.7"): Override(exempt=True)})
    assert applying(facts(peer="192.0.2.7"), policy) == []
    assert applying(facts(("X-User-ID", "192.0.2.7")), policy) == ["p"]


def test_an_address_names_whatever_a_key_without_clients_shows() -> None:
    policy = Policy("p", key=key("header:X-Node"), limit=MINUTELY, overrides={("192.0.2.7",): Override(exempt=True)})
    assert applying(facts(("X-Node", "192.0.2.7")), policy) == []


def test_an_override_of_a_composite_key_names_all_parts() -> None:
    composite = key("header:X-Tenant", "method")
    policy = Policy("p", key=composite, limit=MINUTELY, overrides={("acme", "POST"): Override(blocked=True)})
    policies = PolicySet([policy], LOOPBACK, "")
    blocked = [
        policies.applying(facts(("X-Tenant", tenant), method=method))[0].charge is None
        for tenant in ("acme", "other")
        for method in ("POST", "GET")
    ]
    assert blocked == [True, False, False, False]


def test_nobody_is_meant_by_an_override_for_want_of_an_identity() -> None:
    policy = Policy("p", key=key("header:X-User-ID"), limit=MINUTELY, overrides={("anonymous",): Override(exempt=True)})
    assert len(PolicySet([policy], LOOPBACK, "").applying(facts())) == 1


# -- exemptions -------------------------------------------------------------------------------------------------------

INTERNAL = Policy("internal", Match(client_ip=(ip_network("10.0.0.0/8"),)), exempt=True)
STATIC = Policy("static", Match(paths=(re.compile("/static/.*"),)), exempt=True)
LIMITED = Policy("limited", key=USER, limit=MINUTELY)


@pytest.mark.parametrize("policies", [(INTERNAL, LIMITED), (LIMITED, INTERNAL)])
def test_nothing_else_applies_to_what_an_exempt_policy_matches(policies: tuple[Policy, ...]) -> None:
    assert applying(facts(peer="10.1.2.3"), *policies) == []
    assert applying(facts(), *policies) == ["limited"]


def test_a_path_is_exempt_in_its_plain_spellings_only() -> None:
    everything = Policy("everything", Match(), USER, MINUTELY)
    assert applying(facts(target="/static/logo.png"), STATIC, everything) == []
    assert applying(facts(target="/static/./logo.png;v=2"), STATIC, everything) == []
    assert applying(facts(target="/static;v=2/logo.png"), STATIC, everything) == ["everything"]
    with pytest.raises(BadRequest):
        applying(facts(target="/static/../api/data"), STATIC, everything)


@pytest.mark.parametrize(
    ("tiers", "applied"),
    [(["internal"], []), (["internal", "internal"], []), (["basic", "internal"], ["everything"]), ([], ["everything"])],
)
def test_an_exemption_by_header_needs_every_line_of_the_field(tiers: list[str], applied: list[str]) -> None:
    exempt = Policy("exempt", Match(fields=(FieldMatch("X-Tier", re.compile("internal")),)), exempt=True)
    everything = Policy("everything", Match(), USER, MINUTELY)
    assert applying(facts(*(("X-Tier", tier) for tier in tiers)), exempt, everything) == applied


@pytest.mark.parametrize("tiers", [["basic"], ["basic", "internal"], ["internal", "basic"]])
def test_a_limit_by_header_applies_if_any_line_of_the_field_matches(tiers: list[str]) -> None:
    limited = Policy("limited", Match(fields=(FieldMatch("X-Tier", re.compile("basic")),)), USER, MINUTELY)
    assert applying(facts(*(("X-Tier", tier) for tier in tiers)), limited) == ["limited"]


def test_a_match_and_a_cost_of_get_include_head() -> None:
    policy = Policy("p", Match(methods=frozenset({"GET"})), USER, MINUTELY, costs={"GET": 5})
    charges = [
        entry.charge
        for method in ("GET", "HEAD", "POST")
        for entry in PolicySet([policy], LOOPBACK, "").applying(facts(("X-User-ID", "alice"), method=method))
    ]
    assert [(charge.key, charge.cost) for charge in charges if charge] == [("p:alice", 5), ("p:alice", 5)]


def test_a_match_of_head_alone_does_not_include_get() -> None:
    policy = Policy("p", Match(methods=frozenset({"HEAD"})), USER, MINUTELY)
    assert applying(facts(method="HEAD"), policy) == ["p"]
    assert applying(facts(method="GET"), policy) == []


def test_an_encoded_slash_makes_no_path_exempt() -> None:
    """`/static%2Fdata` may be one segment to the application: an exemption needs both readings to match."""
    everything = Policy("everything", Match(), USER, MINUTELY)
    assert applying(facts(target="/static/data"), STATIC, everything) == []
    assert applying(facts(target="/static%2Fdata"), STATIC, everything) == ["everything"]
    assert applying(facts(target="/static/a%2Fdata"), STATIC, everything) == []


def test_a_match_that_ignores_case_has_one_bucket_for_every_case_of_a_path() -> None:
    folding = Match(paths=(re.compile("/api/.*", re.IGNORECASE),))
    for part, name in (("path", "%2Fapi%2Fdata"), ("path:2", "data")):
        compiled = PolicySet([Policy("p", folding, key(part), MINUTELY)], LOOPBACK, "")
        buckets = {
            entry.charge.key
            for target in ("/api/data", "/API/Data", "/aPi/%44ATA")
            for entry in compiled.applying(facts(target=target))
            if entry.charge
        }
        assert buckets == {f"p:{name}"}


# -- what a caller is shown of its limits -----------------------------------------------------------------------------


def concerning(request: RequestFacts, *policies: Policy) -> list[str]:
    return [entry.policy.name for entry in PolicySet(policies, LOOPBACK, "").concerning(request)]


def test_a_status_shows_the_limits_of_other_paths_and_methods_too() -> None:
    writes = Policy("writes", Match(paths=(re.compile("/api/.*"),), methods=frozenset({"POST"})), USER, MINUTELY)
    free = Policy("free", Match(fields=(FieldMatch("X-Plan", re.compile("free")),)), USER, MINUTELY)
    assert concerning(facts(target="/status"), writes, free) == ["writes"]
    assert concerning(facts(("X-Plan", "free"), target="/status"), writes, free) == ["writes", "free"]


def test_a_status_is_empty_for_a_caller_that_is_exempt() -> None:
    assert concerning(facts(peer="10.1.2.3", target="/status"), INTERNAL, LIMITED) == []


def test_a_status_is_not_emptied_by_an_exemption_of_other_paths() -> None:
    reads = Policy("reads", Match(methods=frozenset({"GET"})), exempt=True)
    assert concerning(facts(target="/status"), STATIC, reads, LIMITED) == ["limited"]


# -- fields that decide -----------------------------------------------------------------------------------------------


def test_the_fields_that_decide_are_known() -> None:
    policies = [
        Policy(
            "a", Match(fields=(FieldMatch("X-Plan", None),)), key("header:X-User-ID | cookie:sid | client_ip"), MINUTELY
        ),
        Policy("b", key=key("header:X-Tenant", "query:user", "path"), limit=MINUTELY),
        Policy("c", Match(fields=(FieldMatch("X-Internal", None),)), exempt=True),
    ]
    fields = PolicySet(policies, LOOPBACK, "").fields
    assert {"x-plan", "x-user-id", "cookie", "x-tenant", "x-internal"} <= fields


def test_an_identity_given_twice_is_a_bad_request_only_where_a_policy_reads_it() -> None:
    doubled = facts(("X-User-ID", "alice"), ("X-User-ID", "bob"))
    with pytest.raises(BadRequest):
        applying(doubled, LIMITED)
    assert bucket_of(doubled, "client_ip") == "example:p:192.0.2.7"
    elsewhere = Policy("p", Match(paths=(re.compile("/other"),)), USER, MINUTELY)
    assert applying(doubled, elsewhere) == []
