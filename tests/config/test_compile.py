"""Compiled overrides match keys in every form that a request shows."""

import pytest
from multidict import CIMultiDict
from sidegate.config import compile_policies, parse
from sidegate.decision.request import RequestFacts


@pytest.mark.parametrize(
    ("match", "key", "named", "target", "host"),
    [
        ("{}", "host", "api.example.com", "/", "API.Example.com:80"),
        ("{path: /api/**, ignore_case: true}", "path", "/api/Data", "/API/data", "a.test"),
        ("{path: /api/**, ignore_case: true}", "path:2", "Data", "/Api/DATA", "a.test"),
        ("{path: /api/**}", "path:2", "Data", "/api/Data", "a.test"),
        ("{}", "client_ip", "2001:db8::7", "/", "a.test"),
    ],
)
def test_an_override_is_found_in_whichever_case_or_form_its_key_is_written(
    match: str, key: str, named: str, target: str, host: str
) -> None:
    written = f"policies: [{{name: p, match: {match}, key: '{key}', limit: 1/s, overrides: [{{key: '{named}', exempt: true}}]}}]"
    facts = RequestFacts("GET", target, CIMultiDict({"Host": host}), "2001:db8::9")
    assert not compile_policies(parse(written, "c.yaml", {})).applying(facts)


@pytest.mark.parametrize(
    ("key", "named", "field", "value"),
    [
        ("header:Authorization", "Bearer abc", "Authorization", "bearer  abc"),
        ("header:Authorization | client_ip", "Bearer abc", "Authorization", "Bearer abc"),
        ("header:Authorization", "Basic YWxpY2U6eA==", "Authorization", "basic YWxpY2U6eA=="),
        ("cookie:s", "a+b", "Cookie", "s=a+b"),
        ("cookie:s", "a%20b", "Cookie", "s=a%20b"),
        ("cookie:s", "a b", "Cookie", "s=a+b"),
        ("query:user", "a+b c", "X-Other", "-"),
        ("client_ip", "::ffff:192.0.2.1", "X-Other", "-"),
    ],
)
def test_an_override_is_found_by_the_value_as_requests_write_it(key: str, named: str, field: str, value: str) -> None:
    written = f"policies: [{{name: p, key: '{key}', limit: 1/s, overrides: [{{key: '{named}', exempt: true}}]}}]"
    facts = RequestFacts("GET", "/?user=a%2Bb+c", CIMultiDict({field: value}), "192.0.2.1")
    assert not compile_policies(parse(written, "c.yaml", {})).applying(facts)


@pytest.mark.parametrize("target", ["/api/data", "/api/DATA"])
def test_where_case_counts_an_override_of_another_case_is_another_key(target: str) -> None:
    written = (
        "policies: [{name: p, match: {path: /api/**}, key: path:2, limit: 1/s, overrides: [{key: Data, exempt: true}]}]"
    )
    facts = RequestFacts("GET", target, CIMultiDict(), "192.0.2.1")
    assert len(compile_policies(parse(written, "c.yaml", {})).applying(facts)) == 1


@pytest.mark.parametrize(("more", "applies"), [("key: client_ip, limit: 1/s", True), ("exempt: true", False)])
def test_a_header_value_in_another_case_is_limited_and_not_exempt(more: str, applies: bool) -> None:
    match = "{header: {Content-Type: [application/json*]}}"
    everyone = "{name: all, key: client_ip, limit: 1/s}"
    written = f"policies: [{{name: p, match: {match}, {more}}}, {everyone}]"
    facts = RequestFacts("POST", "/", CIMultiDict({"Content-Type": "Application/JSON; charset=utf-8"}), "192.0.2.1")
    found = [entry.policy.name for entry in compile_policies(parse(written, "c.yaml", {})).applying(facts)]
    assert found == (["p", "all"] if applies else ["all"])
