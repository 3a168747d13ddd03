"""All faults of a configuration are reported at once, each with its place and the expected value."""

from pathlib import Path

import pytest
from sidegate.config import ConfigError, Settings, compile_policies, load, parse

ENTIRE = """\
polices: 3
listen: {port: 99999, idle_timeout: 5}
store: {url: "redis://u:p@h/1", password: [1]}
policies:
 - {name: a, limit: 10/min, key: heeder:X, cost: 20}
 - {name: a b, key: client_ip, limit: 5/s, cost: 6}
 - {name: b}
 - {name: c, exempt: true, key: client_ip}
 - {name: d, key: client_ip, limit: 5/s, overrides: [{key: x}, {key: y, limit: 3/s, blocked: true}]}
"""

FAULTS = [
    "c.yaml:1:1: polices: unknown key 'polices', did you mean 'policies'?",
    "c.yaml:2:16: listen.port: 99999 is not a port; expected a whole number from 0 to 65535",
    "c.yaml:2:37: listen.idle_timeout: 5 has no unit; expected e.g. 250ms, 1s, 5m, 1h, 1d",
    "c.yaml:3:43: store.password: is not text; expected text, in quotes",
    (
        "c.yaml:5:21: policies[0].limit: '10/min' is not a rate; expected e.g. 10/minute, 100/s, 1/2.5s; "
        "did you mean 10/minute?"
    ),
    "c.yaml:5:34: policies[0].key: 'heeder:X' is not a source of keys; did you mean 'header'?",
    "c.yaml:6:11: policies[1].name: 'a b' is not a name; expected 1 to 64 of the characters A-Z a-z 0-9 . _ -",
    "c.yaml:6:50: policies[1].cost: a cost of 6 can never pass a burst of 5; expected a cost up to the burst",
    "c.yaml:7:4: policies[2].key: a policy needs a key; expected e.g. key: header:X-User-ID | client_ip",
    "c.yaml:7:4: policies[2].limit: a policy needs a limit; expected e.g. limit: 10/minute",
    "c.yaml:8:33: policies[3].key: an exempt policy takes only name, match and exempt; this would do nothing",
    "c.yaml:9:54: policies[4].overrides[0]: an override is exactly one of limit, in_flight, blocked: true and exempt: true",
    "c.yaml:9:64: policies[4].overrides[1]: an override is exactly one of limit, in_flight, blocked: true and exempt: true",
]


def faults_of(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.yaml", environ or {})
    assert str(caught.value) == "\n".join(map(str, caught.value.faults))
    return [str(fault) for fault in caught.value.faults]


def test_all_faults_are_named_at_once_in_the_order_of_the_document() -> None:
    assert faults_of(ENTIRE) == FAULTS


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "listen: {port: 1, port: 2}",
            "c.yaml:1:19: listen.port: the key 'port' occurs twice; the first is in line 1",
        ),
        ("a: [", "c.yaml:2:1: is not valid YAML: "),
        ("- a", "c.yaml:1:1: the configuration is a list; expected a mapping, e.g. policies: [...]"),
        (
            "log: {level: loud}",
            "c.yaml:1:14: log.level: 'loud' is not known here; expected debug, info, warning or error",
        ),
        ("upstream: {url: 'http://h/x'}", "c.yaml:1:17: upstream.url: 'http://h/x' is not an upstream"),
        (
            "store: {on_failure: locally}",
            "c.yaml:1:21: store.on_failure: 'locally' is not known here; expected deny, allow",
        ),
        ("store: {replicas: 0}", "c.yaml:1:19: store.replicas: 0 is not a whole number from 1 to 100000"),
        ("store: {warn_at_buckets: many}", "c.yaml:1:26: store.warn_at_buckets: 'many' is not a whole number from 1"),
        (
            "store: {url: 'redis+sentinel://h'}",
            "c.yaml:1:14: store.url: 'redis+sentinel://h' is not a store; expected e.g. redis+s",
        ),
        (
            "store: {url: 'redis+cluster://h/2'}",
            "c.yaml:1:14: store.url: 'redis+cluster://h/2' is not a store; expected e.g. redis+c",
        ),
        (
            "store: {sentinel_password: x}",
            "c.yaml:1:28: store.sentinel_password: takes effect only with a store url of redis+sen",
        ),
        ("store: {ca_file: /x}", "c.yaml:1:18: store.ca_file: takes effect only with a store url of rediss://"),
        (
            "tracing: {endpoint: a:4318}",
            "c.yaml:1:21: tracing.endpoint: 'a:4318' is not an endpoint; expected e.g. http:",
        ),
        ("tracing: {sample: 2}", "c.yaml:1:19: tracing.sample: 2 is not a share; expected a number from 0 to 1"),
        ("listen: {request_id_header: Host}", "c.yaml:1:29: listen.request_id_header: 'Host' is not a field for ids"),
        ("listen: {health_path: /a, status_path: /a}", "c.yaml:1:40: listen.status_path: '/a' is the health page"),
        (
            "policies: [{name: a, key: client_ip, limit: 1/s, burst: 0}]",
            "c.yaml:1:57: policies[0].burst: 0 is not a whole",
        ),
        ("policies: 3", "c.yaml:1:11: policies: 3 is not a list"),
        ("listen: []", "c.yaml:1:9: listen: is not a mapping"),
        ("listen: {port: '${NOT_SET}'}", "c.yaml:1:16: listen.port: the environment variable NOT_SET is not set"),
    ],
)
def test_a_fault_names_its_place_and_what_was_expected(text: str, fault: str) -> None:
    (found,) = faults_of(text)
    assert found.startswith(fault)


def in_policy(text: str) -> str:
    """The message about one policy that is right but for `text`."""
    (found,) = faults_of(f"policies: [{{name: a, key: client_ip, limit: 10/s, {text}}}]")
    return found.partition(": ")[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("match: {paths: /api}", "policies[0].match.paths: unknown key 'paths', did you mean 'path'?"),
        ("path: /api/**", "policies[0].path: unknown key 'path', which belongs in match, e.g. match: {path: ...}"),
        ("rate: 5/s", "policies[0].rate: unknown key 'rate', did you mean 'limit'?"),
        ("dry-run: true", "policies[0].dry-run: unknown key 'dry-run', did you mean 'shadow'?"),
        ("match: /api", "policies[0].match: is not a mapping; expected keys and values, e.g. {path: /api/**}"),
        (
            "match: {path: '^/api/.*'}",
            "policies[0].match.path: '^/api/.*' is a regular expression; expected * and **, e.g. /api/**",
        ),
        ("shadow: yes", "policies[0].shadow: 'yes' is neither true nor false; did you mean true?"),
        ("burst: '15'", "policies[0].burst: '15' is not a whole number from 1 to 1000000000, without quotes"),
        (
            "on_store_failure: open",
            "policies[0].on_store_failure: 'open' is not known here; expected deny, allow or local; did you mean 'allow'?",
        ),
    ],
)
def test_a_typical_mistake_gets_a_suggestion(text: str, message: str) -> None:
    assert in_policy(text) == message


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("X-User-ID", "'X-User-ID' is not a source of keys; did you mean 'header:X-User-ID'?"),
        ("'header: X-User-ID'", "'header: X-User-ID' does not hold a valid name; expected header:X-User-ID"),
        ("ip", "'ip' is not a source of keys; did you mean 'client_ip'?"),
        (
            "header:X || client_ip",
            "an alternative is empty; expected one | between two of them, e.g. header:X-User-ID | client_ip",
        ),
    ],
)
def test_a_mistaken_key_gets_a_suggestion(key: str, message: str) -> None:
    (found,) = faults_of(f"policies: [{{name: a, key: {key}, limit: 10/s}}]")
    assert found == f"c.yaml:1:27: policies[0].key: {message}"


@pytest.mark.parametrize(
    ("text", "place", "hint"),
    [
        ("policies:\n  - name: a\n   limit: 1/s", "c.yaml:3:4", "lines that belong together begin in the same column"),
        ("policies:\n\t- name: a", "c.yaml:2:1", "indent with spaces, not with tabs"),
        ("a: [::1]", "c.yaml:1:5", "inside { } and [ ], text with one of , : * & ! needs quotes"),
        ("a: b: c", "c.yaml:1:5", "text that holds a colon and a space needs quotes"),
    ],
)
def test_broken_yaml_gets_its_usual_cause(text: str, place: str, hint: str) -> None:
    (found,) = faults_of(text)
    assert found.startswith(f"{place}: is not valid YAML: ")
    assert found.endswith(f"; {hint}")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("method", "HEAD", "'HEAD' has the key of GET, whose handler it runs; expected 'GET'"),
        ("method", "post", "'post' is not a method as requests carry it; expected 'POST'"),
        ("host", "API.test", "'API.test' is not a host as keys have it; expected 'api.test'"),
        ("client_ip", "alice", "'alice' is not a client's address; expected e.g. 192.0.2.7 or 2001:db8::/64"),
        (
            "header:Authorization",
            "Basic x",
            "requests with 'Basic x' are answered 400: the Basic credentials are not canonical base64, but decide a limit",
        ),
        (
            "cookie:sid",
            "caf\xe9",
            "requests with 'caf\xe9' are answered 400: the cookie sid is written in a form that not all applications read alike",
        ),
    ],
)
def test_an_override_for_a_key_that_no_request_shows_is_a_fault(key: str, value: str, message: str) -> None:
    text = f"policies: [{{name: a, key: {key}, limit: 1/s, overrides: [{{key: {value}, blocked: true}}]}}]"
    (found,) = faults_of(text)
    assert found.endswith(f"policies[0].overrides[0].key: {message}")


def test_two_policies_of_one_name_are_a_fault() -> None:
    one = "{name: a, key: client_ip, limit: 1/s}"
    assert faults_of(f"policies: [{one}, {one}]") == [
        "c.yaml:1:58: policies[1].name: 'a' is the name of an earlier policy"
    ]


def test_a_secret_is_never_shown() -> None:
    settings = parse(
        "store: {password: hunter2, url: 'redis://me:hunter2@h'}\nadmin: {token: hunter2hunter2hunter2}", "c.yaml", {}
    )
    assert "hunter2" not in repr(settings.store.password) + repr(settings.admin)
    assert settings.store.credentials == ("me", "hunter2")
    assert str(settings.store.url) == "redis://h:6379/0"


def test_a_variable_takes_the_type_wanted_where_it_stands_and_never_becomes_structure() -> None:
    text = 'listen: {port: "${PORT:-8080}"}\nstore: {password: "${PW:-}"}'
    assert parse(text, "c.yaml", {}).listen.port == 8080
    settings = parse(text, "c.yaml", {"PORT": "81", "PW": "a, b: {c}"})
    assert settings.listen.port == 81
    assert settings.store.password.get_secret_value() == "a, b: {c}"


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n...\n", "null"])
def test_an_empty_document_is_refused_because_it_limits_nothing(text: str) -> None:
    (found,) = faults_of(text)
    assert found == "c.yaml:1:1: is empty; expected settings, at least policies: [] for a sidecar that limits nothing"


@pytest.mark.parametrize("text", ["{}", "policies: []", "listen:\n  # port: 81\n"])
def test_a_document_that_sets_nothing_has_all_defaults(text: str) -> None:
    settings = parse(text, "c.yaml", {})
    assert (settings.listen, settings.store, settings.policies) == (Settings().listen, Settings().store, ())


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_an_unreadable_file_is_a_fault_without_a_place(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / name, {})
    assert caught.value.faults[0].line is None


def test_a_byte_that_is_not_utf_8_is_a_fault_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"log:\n  level: \xff")
    with pytest.raises(ConfigError, match=r":2:10: is not UTF-8 here"):
        load(file, {})


def test_the_demonstration_is_valid_and_compiles_to_one_policy() -> None:
    settings = load(Path(__file__).parents[2] / "config.yaml", {})
    (policy,) = compile_policies(settings).policies
    assert policy.limit is not None
    assert (policy.name, policy.limit.burst, policy.limit.initial, policy.limit.ttl_ms) == (
        "ratelimit",
        15,
        10,
        3_600_000,
    )
    assert str(settings.store.url) == "redis://localhost:6379/0"


@pytest.mark.parametrize("text", ["+15551234567", "1.10", "1.50", "1.5e3", "True", "FALSE", "-0", "1", "12.5", "true"])
def test_an_override_key_without_quotes_is_shown_as_it_is_written(text: str) -> None:
    policy = f"{{name: a, key: 'header:X', limit: 1/s, overrides: [{{key: {text}, blocked: true}}]}}"
    (found,) = faults_of(f"policies: [{policy}]")
    assert found.endswith(f": {text} is not text; expected text, in quotes: '{text}'")


@pytest.mark.parametrize("text", ["~", "null", "NULL"])
def test_an_override_key_that_yaml_reads_as_null_needs_quotes(text: str) -> None:
    policy = f"{{name: a, key: 'header:X', limit: 1/s, overrides: [{{key: [alice, {text}], blocked: true}}]}}"
    (found,) = faults_of(f"policies: [{policy}]")
    assert found.endswith(f"has no value; the text {text} needs quotes: '{text}'")


@pytest.mark.parametrize("text", ["0x1F", "1_000", "2026-01-01", "1:30", "0123", "yes", ".5", "1.", "1e3"])
def test_an_override_key_that_only_yaml_1_1_types_is_text(text: str) -> None:
    policy = f"{{name: a, key: 'header:X', limit: 1/s, overrides: [{{key: {text}, blocked: true}}]}}"
    assert parse(f"policies: [{policy}]", "c.yaml", {}).policies[0].overrides[0].key == ((text,),)


def test_a_merge_key_gets_a_message_of_its_own() -> None:
    text = "policies:\n- &base {name: a, key: client_ip, limit: 1/s}\n- {<<: *base, name: b}\n"
    (found,) = faults_of(text)
    assert found.startswith(
        "c.yaml:3:4: policies[1].<<: merge keys (<<) are not supported; write the settings out, or use"
    )


def test_a_template_under_an_unknown_key_gets_advice_on_anchors() -> None:
    (found,) = faults_of("base: &base {key: client_ip}\npolicies: []\n")
    assert found.endswith("; put the anchor (&) at the first setting that has this value")
