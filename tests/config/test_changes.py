"""An edit in words: what `sidegate diff` prints and `config_reloaded` logs."""

import pytest
from sidegate.config import parse
from sidegate.config.changes import changes

ONE = "- {name: a, key: client_ip, limit: 10/minute}"


def words(before: str, after: str) -> list[str]:
    return [each.text for each in changes(parse(before, "old", {}), parse(after, "new", {}))]


def policies(*written: str) -> str:
    return "policies:\n" + "\n".join(f"  {each}" for each in written) + "\n"


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("listen: {port: 80}", "listen: {port: 81}", "listen.port: 80 → 81; takes effect at the next start"),
        ("{}", "store: {on_failure: local}", "store.on_failure: deny → local"),
        ("{}", "store: {key_prefix: 'x:'}", "store.key_prefix: example: → x:; all buckets start anew"),
        ("{}", "listen: {max_body_bytes: 1KiB}", "listen.max_body_bytes: not set → 1024"),
        ("store: {replicas: 3}", "{}", "store.replicas: 3 → not set"),
        ("{}", "client_ip: {trusted_proxies: []}", 'client_ip.trusted_proxies: ["127.0.0.0/8"] → []'),
        ("store: {password: one}", "store: {password: two}", "store.password: changed"),
        ("{}", "admin: {token: 0123456789abcdef}", "admin.token: not set → **********; takes effect at the next start"),
    ],
)
def test_a_changed_setting_shows_both_values_and_no_secret(before: str, after: str, text: str) -> None:
    assert words(before, after) == [text]
    assert all(secret not in text for secret in ("one →", "two", "0123456789abcdef"))


@pytest.mark.parametrize(
    ("after", "text"),
    [
        ("- {name: a, key: client_ip, limit: 20/minute}", "limit: 10/minute → 20/minute"),
        ("- {name: a, key: client_ip, limit: 10/minute, burst: 30}", "burst: not set → 30"),
        ("- {name: a, key: host, limit: 10/minute}", "key: client_ip → host; its buckets start new"),
        ("- {name: a, key: client_ip, limit: 10/minute, shadow: true}", "shadow: false → true; it now refuses nothing"),
        ("- {name: a, key: client_ip, limit: 10/minute, on_store_failure: allow}", "on_store_failure: not set → allow"),
    ],
)
def test_a_changed_policy_names_the_field_and_its_effect(after: str, text: str) -> None:
    assert words(policies(ONE), policies(after)) == [f"policy a: {text}"]


def test_policies_that_come_and_go_are_named_with_the_effect() -> None:
    assert words(policies(ONE), policies("- {name: b, exempt: true, match: {path: /x}}")) == [
        "policy a is removed; requests under it lose this limit",
        "policy b is new: exempts what it matches from all other policies",
    ]


def test_a_new_policy_of_requests_in_flight_names_the_places() -> None:
    after = policies("- {name: slots, in_flight: 4, key: client_ip}")
    assert words("policies: []", after) == ["policy slots is new: 4 requests in flight for each client_ip"]


def test_another_order_of_policies_is_named() -> None:
    two = "- {name: b, key: client_ip, limit: 5/s}"
    (text,) = words(policies(ONE, two), policies(two, ONE))
    assert text == 'the order of the policies changes: ["b", "a"]; this changes no decision'


def test_overrides_are_named_by_key_and_many_are_counted() -> None:
    def written(overrides: str) -> str:
        return policies(f"- {{name: a, key: header:X-User-ID, limit: 1/s, overrides: [{overrides}]}}")

    many = ", ".join(f"user-{number}" for number in range(8))
    before = written("{key: [ann, bob], limit: 5/s}, {key: eve, blocked: true}")
    after = written(f"{{key: ann, limit: 9/s}}, {{key: [{many}], exempt: true}}, {{key: eve, exempt: true}}")
    assert words(before, after) == [
        "policy a: overrides new for user-0, user-1, user-2, user-3, user-4 and 3 more",
        "policy a: overrides removed for bob",
        "policy a: override of ann: limit 5/second → limit 9/second",
        "policy a: override of eve: blocked → exempt",
    ]


def test_secret_values_of_a_policy_are_not_shown() -> None:
    def written(secret: str) -> str:
        return policies(
            f"- {{name: a, match: {{header: {{X-API-Key: {secret}}}}}, key: header:X-API-Key, limit: 1/s, "
            f"overrides: [{{key: {secret}, blocked: true}}]}}"
        )

    found = words(written("hunter2"), written("hunter3"))
    assert "policy a: match: changed" in found
    assert len(found) == 3
    assert "hunter" not in " ".join(found)


def test_the_same_settings_in_other_words_change_nothing() -> None:
    assert words(policies(ONE), policies(ONE.replace("minute", "60s")) + "listen: {port: 8080}\n") == []
