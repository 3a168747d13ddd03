"""The published JSON Schema agrees with the reader, as far as a schema can."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing.jsonschema import EMPTY_REGISTRY
from sidegate.config import ConfigError, parse
from sidegate.config.model import Settings
from sidegate.config.schema import json_schema
from sidegate.config.section import Section

from tests.sidecar import ROOT

PUBLISHED = ROOT / "docs" / "config.schema.json"
SCHEMA = json_schema()
VALIDATOR = Draft202012Validator(SCHEMA, registry=EMPTY_REGISTRY)


def refused(text: str) -> bool:
    return not VALIDATOR.is_valid(yaml.safe_load(text))


def test_the_published_schema_is_up_to_date() -> None:
    assert json.loads(PUBLISHED.read_text("utf-8")) == SCHEMA, "run: make schema"


def test_the_schema_is_valid_itself() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_the_demonstration_names_its_schema_for_editors_and_fits_it() -> None:
    text = (ROOT / "config.yaml").read_text("utf-8")
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named is not None
    assert (ROOT / named[1]).resolve() == PUBLISHED
    VALIDATOR.validate(yaml.safe_load(text))


def test_the_demonstration_shows_every_key_of_every_section() -> None:
    text = (ROOT / "config.yaml").read_text("utf-8")
    missing = [
        f"{section}.{key}"
        for section, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        for name, setting in field.annotation.model_fields.items()
        if not re.search(rf"\b{(key := setting.alias or name)}:", text)
    ]
    assert missing == []


def described(schema: Any) -> Iterator[tuple[str, bool]]:
    for key, value in schema.get("properties", {}).items():
        yield key, bool(value.get("description"))


def test_every_key_is_described() -> None:
    sections = [SCHEMA, *(section for section in SCHEMA["$defs"].values() if "properties" in section)]
    assert [key for section in sections for key, text in described(section) if not text] == []


def test_defaults_are_shown_as_they_are_written() -> None:
    keys = SCHEMA["$defs"]["ListenSettings"]["properties"] | SCHEMA["$defs"]["PolicySettings"]["properties"]
    assert (keys["header_timeout"]["default"], keys["idle_ttl"]["default"], keys["cost"]["default"]) == ("10s", "1h", 1)


RIGHT = [
    "{}",
    "listen:\npolicies: []",
    "listen: {port: '${PORT:-8080}', max_header_bytes: 16KiB, drain_timeout: 0s}",
    "tracing: {endpoint: 'http://c:4318/v1/traces', sample: '${S:-0.5}'}\nlisten: {request_id_header: x-correlation-id}",
    "responses: {status: 503, cors: {origins: ['https://a.test'], credentials: '${C:-true}'}}",
    "log: {level: '${LEVEL:-info}'}\nstore: {timeout: 1h30m, on_failure: allow}",
    "policies: [{name: a, exempt: true, match: {client_ip: 10.0.0.0/8}}]",
    "policies: [{name: a, key: client_ip, limit: 1/2.5s}]",
    "policies: [{name: a, key: 'header:X | cookie:s|client_ip', limit: 1/1h30m, cost: {GET: 1, default: 1}}]",
    "policies: [{name: a, key: ['path:1', 'query:q', host, method], limit: 10/m, shadow: '${SHADOW:-true}'}]",
    "policies: [{name: a, key: client_ip, limit: '${LIMIT:-3/s}', burst: '${BURST:-7}', on_store_failure: allow}]",
    "policies: [{name: a, key: 'header:X', limit: 1/d, overrides: [{key: x, blocked: true}, {key: [y, z], limit: 2/s}]}]",
    "policies: [{name: a, key: ['header:X', method], limit: 1/d, overrides: [{key: [[x, GET]], exempt: true}]}]",
    ("policies: [{name: a, key: client_ip, limit: 1/s, match: {path: /a, method: [GET], header: {X: true, Y: [a, b*]}, "
    "host: '*.test', ignore_case: true}}]"),
]  # fmt: skip


@pytest.mark.parametrize("text", RIGHT)
def test_the_schema_accepts_what_the_reader_accepts(text: str) -> None:
    parse(text, "c.yaml", {})
    assert not refused(text or "{}")


WRONG = [
    "polices: []",
    "listen: {port: 99999}",
    "listen: {port: eighty}",
    "listen: {idle_timeout: 5}",
    "listen: {max_header_bytes: 16K}",
    "log: {level: loud}",
    "store: {on_failure: maybe}",
    "client_ip: {ipv6_prefix: 129}",
    "responses: {headers: [x-rate]}",
    "responses: {status: 200}",
    "responses: {cors: {origin: x}}",
    "responses: {pages: {'429': {htm: x}}}",
    "policies: 3",
    "policies: [{}]",
    "policies: [{name: a}]",
    "policies: [{name: 'a b', key: client_ip, limit: 1/s}]",
    "policies: [{name: a, key: client_ip}]",
    "policies: [{name: a, key: client_ip, limit: 10/min}]",
    "policies: [{name: a, key: client_ip, limit: 10}]",
    "policies: [{name: a, key: heeder:X, limit: 10/s}]",
    "policies: [{name: a, key: [], limit: 10/s}]",
    "policies: [{name: a, key: client_ip, limit: 10/s, burst: 0}]",
    "policies: [{name: a, key: client_ip, limit: 10/s, cost: 0}]",
    "policies: [{name: a, key: client_ip, limit: 10/s, cost: {GET: 0}}]",
    "policies: [{name: a, key: client_ip, limit: 10/s, idle_ttl: 3600}]",
    "policies: [{name: a, key: client_ip, limit: 10/s, match: {path: api}}]",
    "policies: [{name: a, key: client_ip, limit: 10/s, match: {path: []}}]",
    "policies: [{name: a, key: client_ip, limit: 10/s, match: {header: {X: false}}}]",
    "policies: [{name: a, key: client_ip, limit: 10/s, shadow: 'yes'}]",
    "policies: [{name: a, key: client_ip, limit: 10/s, overrides: [{limit: 1/s}]}]",
    "policies: [{name: a, key: client_ip, limit: 10/s, overrides: [{key: x}]}]",
    "policies: [{name: a, key: client_ip, limit: 10/s, overrides: [{key: x, limit: 1/s, blocked: true}]}]",
]


@pytest.mark.parametrize("text", WRONG)
def test_the_reader_refuses_what_the_schema_refuses(text: str) -> None:
    assert refused(text)
    with pytest.raises(ConfigError):
        parse(text, "c.yaml", {})
