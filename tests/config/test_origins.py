"""Which of flag, file, environment and default gives a setting its value, and the origin that is shown."""

from typing import Any

import pytest
from sidegate.adjustable import ADJUSTABLE
from sidegate.config import ConfigError, Settings, parse

OTHERS = "policies: []\n"
# A value of each adjustable setting, as text and as `value` returns it.
VALUES = {
    "PORT": ("81", "91", 0),
    "UPSTREAM_URL": ("http://10.0.0.1:81", "http://10.0.0.2:91", ""),
    "REDIS_URL": ("redis://one:6379/0", "redis://two:6379/0", ""),
    "REDIS_PASSWORD": ("first", "second", ""),
    "ADMIN_HOST": ("127.0.0.2", "127.0.0.3", ""),
    "ADMIN_PORT": ("82", "92", 0),
    "ADMIN_TOKEN": ("a" * 16, "b" * 16, ""),
}


def value(settings: Settings, path: tuple[str, str]) -> str:
    section: Any = getattr(settings, path[0])
    found = getattr(section, path[1])
    return str(found.get_secret_value() if path[1] in ("token", "password") else found)


@pytest.mark.parametrize("each", ADJUSTABLE, ids=lambda each: each.variable)
def test_a_setting_has_its_value_from_flag_then_file_then_environment_then_default(each: Any) -> None:
    one, two, _ = VALUES[each.variable]
    section, key = each.path
    name = f"{section}.{key}"
    default = parse(OTHERS, "c.yaml", {each.variable: ""})
    assert value(default, each.path) == value(Settings(), each.path)
    assert default.origins[name] == "default"

    from_environment = parse(OTHERS, "c.yaml", {each.variable: one})
    assert (value(from_environment, each.path), from_environment.origins[name]) == (one, f"environment {each.variable}")

    in_file = f'{OTHERS}{section}: {{{key}: "${{OTHER:-{two}}}"}}\n'
    from_file = parse(in_file, "c.yaml", {each.variable: one})
    assert (value(from_file, each.path), from_file.origins[name]) == (two, "file")

    by_reference = parse(in_file, "c.yaml", {"OTHER": one})
    assert (value(by_reference, each.path), by_reference.origins[name]) == (one, "environment OTHER")

    if each.flag:
        flagged = parse(in_file, "c.yaml", {each.variable: two}, {each.flag: one})
        assert (value(flagged, each.path), flagged.origins[name]) == (one, f"flag {each.flag}")


def test_every_setting_has_an_origin() -> None:
    settings = parse("log: {level: debug}\nlisten:\n", "c.yaml", {})
    written = {name for name, origin in settings.origins.items() if origin != "default"}
    assert written == {"log.level"}
    assert {"policies", "listen.header_timeout", "store.on_failure"} <= set(settings.origins)
    assert parse(OTHERS, "c.yaml", {}).origins["policies"] == "file"


@pytest.mark.parametrize(
    ("environ", "flags", "message"),
    [
        ({"PORT": "http"}, {}, "environment PORT: listen.port: 'http' is not a port; expected a whole number from 0"),
        # As Kubernetes sets it for a service named `admin`.
        ({"ADMIN_PORT": "tcp://10.0.0.1:80"}, {}, "environment ADMIN_PORT: admin.port: 'tcp://10.0.0.1:80' is not"),
        ({"ADMIN_PORT": "8080"}, {}, "environment ADMIN_PORT: admin.port: 8080 is the port of listen too"),
        ({}, {"--upstream": "app:9000"}, "flag --upstream: upstream.url: 'app:9000' is not an upstream; expected e.g."),
        ({}, {"--redis": "http://h"}, "flag --redis: store.url: 'http://h' is not a store"),
        ({}, {"--port": ""}, "flag --port: listen.port: '' is not a port"),
    ],
)
def test_a_wrong_value_names_its_variable_or_flag(environ: dict[str, str], flags: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(OTHERS, "c.yaml", environ, flags)
    assert [str(fault)[: len(message)] for fault in caught.value.faults] == [message]


def test_a_flag_stands_in_for_a_reference_whose_variable_is_not_set() -> None:
    text = 'listen: {port: "${MISSING}"}\n'
    with pytest.raises(ConfigError, match="MISSING is not set"):
        parse(text, "c.yaml", {})
    assert parse(text, "c.yaml", {}, {"--port": "81"}).listen.port == 81


def test_a_section_of_the_wrong_type_keeps_its_own_fault() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("listen: 81\n", "c.yaml", {"PORT": "82"}, {"--port": "83"})
    assert str(caught.value) == "c.yaml:1:9: listen: is not a mapping; expected keys and values, e.g. {port: 8080}"


@pytest.mark.parametrize(
    ("text", "environ", "flags", "credentials", "origin"),
    [
        # The password belongs to the address that it stands in.
        ("store: {url: 'redis://me:in-file@h'}", {"REDIS_PASSWORD": "other"}, {}, ("me", "in-file"), "file"),
        ("{}", {"REDIS_URL": "redis://:in-url@h"}, {}, ("", "in-url"), "environment REDIS_URL"),
        ("store: {password: in-file}", {"REDIS_URL": "h"}, {}, ("", "in-file"), "file"),
        ("store: {password: in-file}", {}, {"--redis": "redis://you:in-flag@h"}, ("you", "in-flag"), "flag --redis"),
        ("store: {url: h}", {"REDIS_PASSWORD": "apart"}, {}, ("", "apart"), "environment REDIS_PASSWORD"),
    ],
)
def test_a_password_in_a_store_url_has_the_origin_of_the_url(
    text: str, environ: dict[str, str], flags: dict[str, str], credentials: tuple[str, str], origin: str
) -> None:
    settings = parse(text, "c.yaml", environ, flags)
    assert settings.store.credentials == credentials
    assert settings.origins["store.password"] == origin
