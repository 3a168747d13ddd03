"""Lint warnings name their place; configurations without mistakes get none."""

from pathlib import Path

import pytest
from sidegate.config import examine

from tests.sidecar import ROOT

NO_PROXY = "client_ip: {trusted_proxies: []}\n"


def warnings_of(text: str, folder: Path) -> list[str]:
    file = folder / "c.yaml"
    # On loopback no proxy can be in front of another machine's clients: its scheme is never lost.
    file.write_text(text if not text or "listen:" in text else f"{text}\nlisten: {{host: 127.0.0.1}}\n")
    return [str(warning).removeprefix(f"{folder}/") for warning in examine(file, {}).warnings]


def policy(text: str) -> str:
    return f"policies: [{{name: a, key: client_ip, limit: 10/s, {text}}}]"


FORGED = (
    "any client can forge header:X-User-ID, and get a new bucket for each value; name the proxies that set or check it in "
    "client_ip.trusted_proxies, or add a policy with key: client_ip"
)
EXEMPTS_ITSELF = "add client_ip, or name the proxies that set or remove it in client_ip.trusted_proxies"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            policy("burst: 15, initial: 20"),
            "c.yaml:1:71: policies[0].initial: 20 is more than a bucket holds; a new one starts with 15, its burst",
        ),
        (
            policy("overrides: [{key: 192.0.2.1, limit: 5/s, initial: 6}]"),
            (
                "c.yaml:1:101: policies[0].overrides[0].initial: 6 is more than a bucket holds; a new one starts with 5, "
                "its burst"
            ),
        ),
        (
            policy("burst: 1000000"),
            (
                "c.yaml:1:58: policies[0].burst: at 10/second a bucket of 1000000 takes 1 day to fill, and is then spent at "
                "once; for a quota of days write a policy of its own, e.g. limit: 5000/day"
            ),
        ),
        (
            policy("match: {method: [GTE, POST]}"),
            (
                "c.yaml:1:68: policies[0].match.method[0]: 'GTE' is not a method that the sidecar accepts; this never matches; "
                "did you mean GET?"
            ),
        ),
        (
            policy("settle: {when: [2xx, 3xx, 4xx, 5xx]}"),
            "c.yaml:1:66: policies[0].settle.when: every status keeps the cost; without settle the policy does the same",
        ),
        (
            "policies: [{name: a, key: client_ip, in_flight: 10, match: {path: [/api/ws, /a/**]}}]",
            (
                "c.yaml:1:68: policies[0].match.path[0]: a WebSocket keeps its place until it ends; if that is intended, match "
                "header: {Upgrade: websocket}"
            ),
        ),
        (
            policy("wait: 1s, on_store_failure: local"),
            "c.yaml:1:57: policies[0].wait: while the store is away, the local share refuses at once: no request waits then",
        ),
        (
            policy("match: {method: GET}, cost: {POST: 5}"),
            "c.yaml:1:86: policies[0].cost.POST: the cost of POST is never used: this policy matches GET only",
        ),
        (
            policy("cost: {GET: 5, HEAD: 1}"),
            (
                "c.yaml:1:72: policies[0].cost.HEAD: HEAD runs the handler of GET but costs less; without its own cost it "
                "costs the same"
            ),
        ),
        (
            policy("match: {method: [GET, HEAD]}"),
            "c.yaml:1:73: policies[0].match.method[1]: GET includes HEAD; HEAD has no effect here",
        ),
        (
            policy("match: {path: [/api/**, /health]}"),
            "c.yaml:1:75: policies[0].match.path[1]: '/health' is answered by the sidecar itself and never limited",
        ),
        (
            "policies: [{name: a, key: 'header:X-Forwarded-For', limit: 1/s}]",
            (
                "c.yaml:1:27: policies[0].key: header:X-Forwarded-For is used as sent, including what a client has put into it; "
                "expected client_ip, which reads it from trusted proxies only"
            ),
        ),
        (
            f"client_ip: {{trusted_proxies: [0.0.0.0/0]}}\n{policy('burst: 15')}",
            (
                "c.yaml:1:31: client_ip.trusted_proxies[0]: '0.0.0.0/0' trusts every peer: any client can claim any "
                "address; expected your proxies"
            ),
        ),
        ("policies: []", "c.yaml:1:11: policies: no policy limits anything; every request passes"),
        (
            "policies: [{name: a, key: 'header:X-User-ID | client_ip', limit: 1/s}]",
            f"c.yaml:1:27: policies[0].key: {FORGED}",
        ),
        (
            "client_ip: {ipv6_prefix: 56}\npolicies: [{name: a, key: 'header:X-User-ID', limit: 1/s}]",
            f"c.yaml:2:27: policies[0].key: {FORGED}",
        ),
        (
            NO_PROXY + "policies: [{name: a, key: 'header:X-User-ID', limit: 1/s}]",
            f"c.yaml:2:27: policies[0].key: {FORGED}",
        ),
        (
            NO_PROXY + "policies: [{name: x, exempt: true, match: {header: {X-In: true}}}, "
            "{name: a, key: client_ip, limit: 1/s}]",
            (
                f"c.yaml:2:43: policies[0].match: any client can exempt itself: it may send the field X-In with any value; "
                f"{EXEMPTS_ITSELF}"
            ),
        ),
    ],
)
def test_a_likely_mistake_is_warned_of_with_its_place(text: str, warning: str, tmp_path: Path) -> None:
    assert warnings_of(text, tmp_path) == [warning]


EXEMPT = "{name: in, exempt: true, match: {path: /in/**}}"
EXEMPT_TOO = "{name: ops, exempt: true, match: {path: /ops}}"


@pytest.mark.parametrize(
    ("policies", "warning"),
    [
        ("{name: a, key: client_ip, limit: 1/s, match: {path: [/x, /in/y]}}", "match.path[1]: never matches: 'in' exempts it"),
        (
            "{name: a, key: client_ip, limit: 1/s, match: {path: [/in/y, /ops]}}",
            ": can never apply: 'in' and 'ops' together exempt all that it matches",
        ),
        ("{name: a, exempt: true, match: {path: /in/y}}", ": does nothing: 'in' exempts all that it matches"),
        ("{name: a, exempt: true, match: {path: /in/**}}", ": does nothing: 'in' exempts all that it matches"),
    ],
)  # fmt: skip
def test_a_policy_below_an_exemption_is_warned_of(policies: str, warning: str, tmp_path: Path) -> None:
    limited = "{name: other, key: client_ip, limit: 1/s}"
    (found,) = warnings_of(f"policies: [{EXEMPT}, {EXEMPT_TOO}, {limited}, {policies}]", tmp_path)
    assert found.partition("policies[3]")[2].removeprefix(".") == warning


@pytest.mark.parametrize(
    "text",
    [
        policy("burst: 15, initial: 15"),
        policy("burst: 863999"),  # a second short of a day
        policy("match: {method: [post, M-SEARCH]}, cost: {post: 2}"),
        "policies: [{name: a, key: client_ip, limit: 5000/day}]",
        "client_ip: {trusted_proxies: [10.0.0.0/8]}\npolicies: [{name: a, key: 'header:X-User-ID', limit: 1/s}]",
        NO_PROXY + "policies: [{name: a, key: 'header:X-User-ID', limit: 1/s, shadow: true}, {name: b, key: client_ip, limit: 1/s}]",
        NO_PROXY + "policies: [{name: a, key: 'header:X-User-ID', limit: 1/s}, {name: b, key: client_ip, limit: 9/s}]",
        NO_PROXY + "policies: [{name: a, exempt: true, match: {client_ip: 10.0.0.0/8, header: {X: true}}}, {name: b, key: path, limit: 9/s}]",
    ],
)  # fmt: skip
def test_a_plausible_configuration_gets_no_warning(text: str, tmp_path: Path) -> None:
    assert warnings_of(text, tmp_path) == []


def test_the_demonstration_gets_no_warning() -> None:
    assert examine(ROOT / "config.yaml", {}).warnings == ()


LOST = (
    "client_ip.trusted_proxies: no proxy is trusted, so X-Forwarded-Proto is replaced and the application sees http for "
    "every request; if a proxy in front ends TLS, name its network here"
)


@pytest.mark.parametrize(
    ("listen", "proxies", "lost"),
    [
        ("0.0.0.0", "[]", True),
        ("0.0.0.0", "[10.0.0.0/8]", False),
        ("0.0.0.0", "[127.0.0.0/8]", False),
        ("::1", "[]", False),
    ],
)
def test_a_configuration_that_loses_the_scheme_of_requests_is_warned_of(
    listen: str, proxies: str, lost: bool, tmp_path: Path
) -> None:
    text = f"listen: {{host: '{listen}'}}\nclient_ip: {{trusted_proxies: {proxies}}}\npolicies: [{{name: a, key: client_ip, limit: 1/s}}]"
    assert warnings_of(text, tmp_path) == ([f"c.yaml:2:30: {LOST}"] if lost else [])


@pytest.mark.parametrize(
    ("listen", "lost"),
    [
        ("{}", True),
        ("{host: ['127.0.0.1', '10.0.0.1']}", True),
        ("{host: ['127.0.0.1', '::1']}", False),
        ("{socket: /run/app/sidegate.sock}", False),
        ("{tls: {cert_file: a.crt, key_file: a.key}}", False),
    ],
)
def test_without_proxies_in_the_file_those_of_other_machines_lose_the_scheme(
    listen: str, lost: bool, tmp_path: Path
) -> None:
    text = f"listen: {listen}\npolicies: [{{name: a, key: client_ip, limit: 1/s}}]"
    found = [each for each in warnings_of(text, tmp_path) if "trusted_proxies: not set" in each]
    assert len(found) == lost
    assert all("write [127.0.0.0/8] if there is none" in each for each in found)


def test_an_address_limit_on_other_requests_does_not_stop_forged_identities(tmp_path: Path) -> None:
    elsewhere = "{name: b, key: client_ip, limit: 9/s, match: {path: /login}}"
    text = f"{NO_PROXY}policies: [{{name: a, key: 'header:X-User-ID', limit: 1/s}}, {elsewhere}]"
    assert warnings_of(text, tmp_path) == [f"c.yaml:2:27: policies[0].key: {FORGED}"]
