"""Reading any file ends soon, with settings or with a ConfigError that names the place."""

import json
import random
import time
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sidegate.config import ConfigError, Settings, compile_policies, parse

from tests.sidecar import ROOT

MIB = 1024 * 1024
DEMONSTRATION = (ROOT / "config.yaml").read_text("utf-8")
LANGUAGE = """\
listen: {port: "${PORT:-8080}", max_header_bytes: 16KiB}
client_ip: {trusted_proxies: [127.0.0.0/8, "::1"], ipv6_prefix: 64}
policies:
  - &first
    name: a
    match: {path: [/api/**, /x/*], method: GET, header: {X-Plan: [free, "trial*"]}, host: "*.test", client_ip: 10.0.0.0/8}
    key: [header:X-User-ID | client_ip, method]
    limit: 10/minute
    burst: 15
    cost: {GET: 1, POST: 5}
    overrides:
      - {key: [[alice, GET], [bob, GET]], limit: 100/minute}
      - {key: [[eve, GET]], blocked: true}
  - {name: b, exempt: true, match: {client_ip: [192.0.2.0/24]}}
other: *first
"""
# What the grammar and the language are made of, and what breaks them.
PIECES = [
    *(
        "policies:",
        "name: a",
        "key: client_ip",
        "limit: 1/s",
        "match:",
        "path: /a",
        "overrides:",
        "listen:",
        "- ",
        "? ",
    ),
    *(
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        ": ",
        "\n",
        "\n  ",
        "\n    - ",
        "\t",
        " ",
        "#",
        "'",
        '"',
        "|",
        ">",
        "\\",
        "%",
        "@",
        "`",
    ),
    *(
        "&a ",
        "*a",
        "<<: *a",
        "!!python/object:os.system ",
        "!!int ",
        "! ",
        "---",
        "...",
        "%YAML 1.1\n",
        "${",
        "${A}",
        "$${",
    ),
    *(
        "null",
        "~",
        "true",
        "1e999",
        "0x1F",
        "-1",
        "\u0661",
        "\x00",
        "\x85",
        "\u2028",
        "\ufeff",
        "\U0001f600",
        "\ud800",
        "a" * 70,
    ),
]


def outcome(text: str) -> Settings | ConfigError:
    """Any other exception is the fault that is looked for."""
    try:
        return parse(text, "c.yaml", {"A": "x: [1"})
    except ConfigError as error:
        _assert_tells(error)
        return error


def compiles(found: Settings | ConfigError) -> None:
    if isinstance(found, Settings):
        compile_policies(found)


def _assert_tells(error: ConfigError) -> None:
    assert error.faults
    for fault in error.faults:
        assert fault.message
        assert (fault.line and fault.column) or fault.message.startswith("and ")
    str(error).encode("utf-8")


@settings(max_examples=300)
@given(st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_a_random_document_is_settings_or_an_error_with_a_place(text: str) -> None:
    compiles(outcome(text))


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A right document with a few cuts, copies and insertions."""
    text = draw(st.sampled_from([DEMONSTRATION, LANGUAGE]))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 30)))
        text = text[:start] + draw(st.sampled_from(["", text[start:end] * 2, *PIECES])) + text[end:]
    return text


@pytest.mark.slow
@settings(max_examples=300)
@given(mutated())
def test_a_mutated_document_is_settings_or_an_error_with_a_place(text: str) -> None:
    compiles(outcome(text))


KEYS = ["policies", "name", "key", "limit", "match", "path", "overrides", "listen", "port", "x"]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_a_value_of_a_wrong_shape_is_an_error_with_a_place(value: object) -> None:
    outcome(f"policies: [{json.dumps(value)}]\nlisten: {json.dumps(value)}")


# -- documents that are made to take long -----------------------------------------------------------------------------


def aliases_of_aliases() -> str:
    """A billion strings in a few lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return "\n".join([*lines, "policies: *a11"])


def filled(piece: Callable[[int], str], head: str = "", tail: str = "") -> str:
    """1 MiB of pieces."""
    parts, size, number = [head], len(head) + len(tail), 0
    while size < MIB:
        part = piece(number)
        parts.append(part)
        size += len(part)
        number += 1
    return "".join([*parts, tail])


def exempt_and_limited(number: int, paths: int) -> Iterator[str]:
    """Policies that all have to be compared with one another, in vain."""
    for n in range(number):
        exempt = ", ".join(f"/e{n}/{path}/**" for path in range(paths))
        limited = ", ".join(f"/l{n}/{path}" for path in range(paths))
        yield f"- {{name: e{n}, exempt: true, match: {{path: [{exempt}]}}}}"
        yield f"- {{name: l{n}, key: client_ip, limit: 1/s, match: {{path: [{limited}]}}}}"


SLOW: dict[str, Callable[[], str]] = {
    "aliases of aliases": aliases_of_aliases,
    "an alias of what holds it": lambda: "policies: &a [*a]",
    "an alias as often as fits": lambda: filled(lambda _: "*a, ", "policies: [&a {name: x, key: client_ip, limit: 1/s}, ", "]"),
    "deep lists": lambda: "policies: " + "[" * (MIB // 2) + "]" * (MIB // 2),
    "deep mappings": lambda: "{a: " * (MIB // 4),
    "deep block lists": lambda: "policies:\n" + "- " * (MIB // 2),
    "deep indentation": lambda: "".join(f"{' ' * n}a:\n" for n in range(1, 1400)),
    "one key again and again": lambda: filled(lambda _: "listen: {}\n"),
    "many keys": lambda: filled(lambda n: f"k{n}: 1\n"),
    "many faulty policies": lambda: filled(lambda n: f"  - {{name: p{n}, limt: 1/s}}\n", "policies:\n"),
    "many right policies": lambda: filled(lambda n: f"  - {{name: p{n}, key: client_ip, limit: 1/s}}\n", "policies:\n"),
    "many policies of one name": lambda: filled(lambda _: "  - {name: p, key: client_ip, limit: 1/s}\n", "policies:\n"),
    "many exemptions": lambda: filled(lambda n: f"  - {{name: p{n}, exempt: true, match: {{path: /a}}}}\n", "policies:\n"),
    "limits beside exemptions": lambda: "\n".join(["policies:", *exempt_and_limited(500, 40)]),
    "many overrides": lambda: filled(
        lambda n: f"k{n}, ", "policies: [{name: a, key: path, limit: 1/s, overrides: [{limit: 2/s, key: [", "x]}]}]"
    ),
    "many overrides of one key": lambda: filled(
        lambda n: "k, ", "policies: [{name: a, key: path, limit: 1/s, overrides: [{limit: 2/s, key: [", "x]}]}]"
    ),
    "a long pattern": lambda: f"policies: [{{name: a, key: path, limit: 1/s, match: {{path: '/{'*a' * (MIB // 2)}'}}}}]",
    "a long key": lambda: f"policies: [{{name: a, limit: 1/s, key: '{'path | ' * (MIB // 7)}path'}}]",
    "a long number": lambda: f"listen: {{port: {'9' * MIB}}}",
    "a long duration": lambda: f"listen: {{idle_timeout: {'1h' * (MIB // 2)}}}",
    "a long rate": lambda: f"policies: [{{name: a, key: path, limit: {'1' * MIB}/s}}]",
    "a long name": lambda: f"policies: [{{name: {'a' * MIB}}}]",
    "a long unknown key": lambda: f"? {'a' * MIB}\n: 1",
    "a long text in quotes": lambda: f'log: {{level: "{"x" * MIB}"}}',
    "a text of many lines": lambda: 'log: {level: "' + "x\n " * (MIB // 3) + '"}',
    "beginnings of references": lambda: f"log: {{level: '{'${' * (MIB // 2)}'}}",
    "references": lambda: f"log: {{level: '{'${A}' * (MIB // 4)}'}}",
    "comments": lambda: "#\n" * (MIB // 2),
    "empty lines": lambda: "\n" * MIB,
    "spaces": lambda: " " * MIB + "a: 1",
    "colons": lambda: ":" * MIB,
    "questions": lambda: "? " * (MIB // 2),
    "dashes": lambda: "--- " * (MIB // 4),
    "anchors": lambda: filled(lambda n: f"&a{n} x, ", "a: [", "]"),
    "tags": lambda: filled(lambda n: f"!t{n} x, ", "a: [", "]"),
    "quotes": lambda: "'" * MIB,
    "backslashes": lambda: '"' + "\\n" * (MIB // 2) + '"',
    "noise": lambda: "".join(random.Random(1).choices(PIECES, k=MIB // 5)),
    "noise of one byte": lambda: random.Random(2).randbytes(MIB // 2).decode("latin-1"),
    "printable noise": lambda: "".join(random.Random(3).choices("abc:-[]{},&*!'\"|># \n", k=MIB)),
}  # fmt: skip


def took_s(text: str) -> float:
    """Seconds of this process's own CPU time to read a document."""
    began_s = time.process_time()
    outcome(text)
    return time.process_time() - began_s


@cache
def plain_policies_s() -> float:
    return took_s(SLOW["many right policies"]())


@pytest.mark.slow
@pytest.mark.speed
@pytest.mark.parametrize("name", SLOW)
def test_no_document_of_a_mebibyte_costs_much_more_than_one_of_plain_policies(name: str) -> None:
    text = SLOW[name]()
    assert len(text.encode("utf-8", "surrogatepass")) <= MIB + 100
    # Both are CPU times of the same process. Work that grows faster than the document would take minutes.
    assert took_s(text) < 5 * plain_policies_s() + 1
