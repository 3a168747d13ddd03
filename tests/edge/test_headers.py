"""Heads on their way through, as tables: what is dropped, kept, replaced, appended; and the rate-limit fields."""

import re
from collections.abc import Sequence

import pytest
from sidegate.decision.bucket import Charge, Level, Limit, Rate
from sidegate.decision.policy import Policy, PolicyMatch
from sidegate.decision.verdict import Answer, DecisionSource, Verdict, store_failed
from sidegate.edge.headers import (
    Forwarding,
    RateLimitFields,
    named_in,
    names_host,
    origin_form,
    response_head,
    status_line,
    valid_host,
)

from tests.structured_fields import items_of

Pairs = Sequence[tuple[bytes, bytes]]
MINUTE_US = 60_000_000


def request_lines(
    *fields: tuple[bytes, bytes],
    target: str = "/",
    connection: Sequence[str] = (),
    peer: str = "10.0.0.9",
    trusted: bool = False,
) -> list[bytes]:
    """The lines of the head that the application gets for these fields."""
    forwarding = Forwarding("app:9000", {"x-user-id"})
    head = forwarding.request_head("GET", target, fields, connection, peer, trusted, b"")
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


def response_lines(*fields: tuple[bytes, bytes], connection: Sequence[str] = (), added: bytes = b"") -> list[bytes]:
    head = response_head(200, "OK", fields, connection, added)
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


# What concerns one hop only

HOP_BY_HOP = [
    b"Connection",
    b"Keep-Alive",
    b"Proxy-Authenticate",
    b"Proxy-Authorization",
    b"Proxy-Connection",
    b"TE",
    b"Trailer",
    b"Transfer-Encoding",
    b"Upgrade",
    b"Content-Length",  # the framing is written anew
]


@pytest.mark.parametrize("name", [*HOP_BY_HOP, b"Expect", b"eXpEcT"])
def test_a_hop_by_hop_field_of_a_request_is_not_passed_on(name: bytes) -> None:
    assert not [line for line in request_lines((name, b"x")) if line.lower().startswith(name.lower() + b":")]


@pytest.mark.parametrize("name", [*HOP_BY_HOP, b"kEEP-aLIVE"])
def test_a_hop_by_hop_field_of_an_answer_is_not_passed_on(name: bytes) -> None:
    assert not [line for line in response_lines((name, b"x")) if line.lower().startswith(name.lower() + b":")]


def test_everything_else_is_passed_on_byte_for_byte_and_in_order() -> None:
    fields = [(b"X-a", b"1"), (b"COOKIE", b"a=\xff"), (b"x-A", b""), (b"Accept", b"*/*, a")]
    assert request_lines(*fields)[1:5] == [b"X-a: 1", b"COOKIE: a=\xff", b"x-A: ", b"Accept: */*, a"]
    assert response_lines(*fields)[1:5] == [b"X-a: 1", b"COOKIE: a=\xff", b"x-A: ", b"Accept: */*, a"]


@pytest.mark.parametrize(
    "connection", [["X-Private"], ["close, X-Private"], ["close", "x-private"], ["X-PRIVATE \t, , close"]]
)
def test_what_connection_names_is_not_passed_on(connection: list[str]) -> None:
    assert b"X-Private: p" not in request_lines((b"X-Private", b"p"), connection=connection)
    assert b"X-Private: p" not in response_lines((b"X-Private", b"p"), connection=connection)


@pytest.mark.parametrize("name", [b"X-User-ID", b"Host", b"Cache-Control", b"Via"])
def test_what_decides_something_cannot_be_taken_away_by_naming_it_in_connection(name: bytes) -> None:
    lines = request_lines((name, b"value"), connection=[name.decode()])
    assert b"%b: value" % name in lines


def test_naming_forwarding_fields_in_connection_changes_nothing() -> None:
    names = ["X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto"]
    fields = [(b"X-Forwarded-For", b"1.2.3.4"), (b"X-Forwarded-Host", b"h"), (b"X-Forwarded-Proto", b"https")]
    with_names = request_lines(*fields, connection=names, trusted=True)
    assert with_names == request_lines(*fields, trusted=True)


def test_names_in_connection_are_read_as_a_list() -> None:
    assert named_in(["close, X-A", " x-b\t"]) == {b"close", b"x-a", b"x-b"}


# Where a request came from


@pytest.mark.parametrize(
    ("fields", "trusted", "expected"),
    [
        ([], False, (b"10.0.0.9", b"app.test", b"http")),
        ([], True, (b"10.0.0.9", b"app.test", b"http")),
        ([(b"X-Forwarded-For", b"6.6.6.6")], False, (b"10.0.0.9", b"app.test", b"http")),
        ([(b"X-Forwarded-For", b"1.2.3.4")], True, (b"1.2.3.4, 10.0.0.9", b"app.test", b"http")),
        (
            [(b"x-forwarded-for", b"1.1.1.1"), (b"X-Forwarded-For", b"2.2.2.2, 3.3.3.3")],
            True,
            (b"1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.9", b"app.test", b"http"),
        ),
        (
            [(b"X-Forwarded-Host", b"outer"), (b"X-Forwarded-Proto", b"https")],
            False,
            (b"10.0.0.9", b"app.test", b"http"),
        ),
        ([(b"X-Forwarded-Host", b"outer"), (b"X-Forwarded-Proto", b"https")], True, (b"10.0.0.9", b"outer", b"https")),
    ],
)
def test_forwarding_fields_are_continued_for_a_trusted_peer_and_replaced_for_any_other(
    fields: Pairs, trusted: bool, expected: tuple[bytes, bytes, bytes]
) -> None:
    lines = request_lines((b"Host", b"app.test"), *fields, trusted=trusted)
    for name, value in zip((b"For", b"Host", b"Proto"), expected, strict=True):
        assert [line for line in lines if line.lower().startswith(b"x-forwarded-%b:" % name.lower())] == [
            b"X-Forwarded-%b: %b" % (name, value)
        ]


def test_via_is_appended_to_what_is_there() -> None:
    assert request_lines((b"Via", b"1.0 old"))[-2:] != []
    assert [line for line in request_lines((b"Via", b"1.0 old")) if line.startswith(b"Via")] == [
        b"Via: 1.0 old",
        b"Via: 1.1 sidegate",
    ]
    assert [line for line in response_lines((b"Via", b"1.0 old")) if line.startswith(b"Via")] == [
        b"Via: 1.0 old",
        b"Via: 1.1 sidegate",
    ]


def test_a_request_without_host_gets_that_of_the_application() -> None:
    assert b"Host: app:9000" in request_lines()


# Targets


@pytest.mark.parametrize(
    ("target", "origin", "authority"),
    [
        ("/", "/", b""),
        ("/a%20b//../c?x=#y", "/a%20b//../c?x=", b""),
        ("/a#b#c", "/a", b""),
        ("/#", "/", b""),
        ("*", "*", b""),
        ("http://h/x?y", "/x?y", b"h"),
        ("http://h", "/", b"h"),
        ("http://h?y", "/?y", b"h"),
        ("http://h#f", "/", b"h"),
        ("HTTPS://H:1/x#f", "/x", b"H:1"),
        ("http://user:pw@h/x", "/x", b"h"),
        ("http://[::1]:80/x", "/x", b"[::1]:80"),
    ],
)
def test_the_application_gets_the_target_in_origin_form_without_fragment(
    target: str, origin: str, authority: bytes
) -> None:
    assert origin_form(target) == (origin, authority)


def test_the_host_of_an_absolute_target_becomes_the_host_field() -> None:
    lines = request_lines((b"Host", b"other"), target="http://h/x")
    assert lines[0] == b"GET /x HTTP/1.1"
    assert [line for line in lines if line.startswith(b"Host:")] == [b"Host: h"]


@pytest.mark.parametrize(
    ("target", "host", "same"),
    [
        ("*", "h", True),
        ("*", None, True),
        ("http://h/x", "h", True),
        ("http://H/x", "h", True),
        ("https://h:80", "h:80", True),
        ("http://h/x", "other", False),
        ("http://h:80/x", "h", False),
        ("http://h/x", None, False),
        ("http://user@h/x", "h", False),
        ("ftp://h/x", "h", False),
        ("h:80", "h:80", False),
    ],
)
def test_a_target_that_is_no_path_names_the_host_of_the_host_field(target: str, host: str | None, same: bool) -> None:
    assert names_host(target, host) is same


@pytest.mark.parametrize("host", ["", "h", "app.test:8080", "a_b-c~", "[::1]", "[2001:db8::1]:80", "127.0.0.1", "h:"])
def test_a_host_and_port_are_valid(host: str) -> None:
    assert valid_host(host)


@pytest.mark.parametrize(
    "host", ["a b", "a/b", "a?b", "a#b", "a@b", "a\\b", "a\tb", "h:80:80", "h:a", "[::1", "[g]", "a\udcff", "a\n"]
)
def test_what_an_application_could_misread_is_no_valid_host(host: str) -> None:
    assert not valid_host(host)


# Status lines


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        (200, "OK", b"HTTP/1.1 200 OK\r\n"),
        (299, "Fine By Me", b"HTTP/1.1 299 Fine By Me\r\n"),
        (200, "", b"HTTP/1.1 200 \r\n"),
        (404, "gr\udcfc\udcdfe", b"HTTP/1.1 404 Not Found\r\n"),
        (599, "\x01", b"HTTP/1.1 599 \r\n"),
    ],
)
def test_a_reason_is_kept_where_it_is_plain_text(status: int, reason: str, line: bytes) -> None:
    assert status_line(status, reason) == line


# Rate-limit fields

TEN_A_MINUTE = Limit(Rate(1, 6_000_000), 15, 10, 3_600_000)
FIVE_A_SECOND = Limit(Rate(1, 200_000), 5, 5, 3_600_000)
BOTH = RateLimitFields(standard=True, legacy=True)


def verdict(
    *entries: tuple[str, Limit, int, Level | None], shadow: Sequence[str] = (), answer: Answer = Answer.PASS
) -> Verdict:
    """A verdict from (policy name, limit, cost, level) each."""
    applied = [
        PolicyMatch(
            Policy(name, limit=limit, shadow=name in shadow),
            Charge(f"example:{name}:alice", limit, cost, name in shadow),
        )
        for name, limit, cost, _ in entries
    ]
    return Verdict(answer, DecisionSource.STORE, applied, [level for _, _, _, level in entries])


def fields_of(lines: bytes) -> dict[str, str]:
    pairs = [line.split(b": ", 1) for line in lines.split(b"\r\n") if line]
    assert lines == b"" or lines.endswith(b"\r\n")
    return {name.decode(): value.decode() for name, value in pairs}


@pytest.mark.parametrize(
    ("level", "cost", "rate_limit", "reset"),
    [
        (Level(9, 0, True), 1, '"ratelimit";r=9;t=6', "36"),
        (Level(9, 1, True), 1, '"ratelimit";r=9;t=6', "36"),
        (Level(9, 5_000_000, True), 1, '"ratelimit";r=9;t=1', "31"),
        (Level(9, 5_999_999, True), 1, '"ratelimit";r=9;t=1', "31"),
        (Level(14, 0, True), 1, '"ratelimit";r=14;t=6', "6"),
        (Level(15, 0, True), 0, '"ratelimit";r=15', "0"),
        (Level(0, 0, False), 1, '"ratelimit";r=0;t=6', "90"),
        (Level(2, 0, False), 5, '"ratelimit";r=2;t=18', "78"),
    ],
)
def test_one_policy_is_told_with_what_is_left_and_when_more_comes(
    level: Level, cost: int, rate_limit: str, reset: str
) -> None:
    fields = fields_of(BOTH.of(verdict(("ratelimit", TEN_A_MINUTE, cost, level))))
    assert fields == {
        "RateLimit-Policy": '"ratelimit";q=15;w=90',
        "RateLimit": rate_limit,
        "X-RateLimit-Limit": "15",
        "X-RateLimit-Remaining": str(level.tokens),
        "X-RateLimit-Reset": reset,
    }


def test_several_policies_are_one_list_in_the_order_of_the_configuration() -> None:
    fields = fields_of(
        BOTH.of(verdict(("a", TEN_A_MINUTE, 1, Level(9, 0, True)), ("b", FIVE_A_SECOND, 1, Level(1, 0, True))))
    )
    assert fields["RateLimit-Policy"] == '"a";q=15;w=90, "b";q=5;w=1'
    assert fields["RateLimit"] == '"a";r=9;t=6, "b";r=1;t=1'


@pytest.mark.parametrize(
    ("first", "second", "nearest"),
    [
        (Level(9, 0, True), Level(1, 0, True), "5"),  # a fifth is less than nine fifteenths
        (Level(1, 0, True), Level(1, 0, True), "15"),
        (Level(9, 0, True), Level(4, 0, True), "15"),
        (Level(3, 0, False), Level(0, 0, True), "15"),  # the one that refuses comes before the emptier one
        (Level(0, 0, False), Level(0, 0, False), "15"),
    ],
)
def test_the_widespread_fields_speak_of_the_policy_nearest_its_end(first: Level, second: Level, nearest: str) -> None:
    found = BOTH.of(verdict(("a", TEN_A_MINUTE, 5, first), ("b", FIVE_A_SECOND, 1, second)))
    assert fields_of(found)["X-RateLimit-Limit"] == nearest


def test_a_shadow_policy_is_not_told() -> None:
    assert BOTH.of(verdict(("a", TEN_A_MINUTE, 1, Level(0, 0, False)), shadow=["a"])) == b""
    both = verdict(("a", TEN_A_MINUTE, 1, Level(0, 0, False)), ("b", FIVE_A_SECOND, 1, Level(4, 0, True)), shadow=["a"])
    assert fields_of(BOTH.of(both))["RateLimit-Policy"] == '"b";q=5;w=1'


def test_nothing_is_invented_while_the_store_is_down() -> None:
    applied = verdict(("a", TEN_A_MINUTE, 1, None)).applied
    assert BOTH.of(store_failed(applied, "timeout")) == b""


def test_a_bucket_that_was_not_looked_at_is_not_told_of_beyond_its_policy() -> None:
    found = fields_of(BOTH.of(verdict(("a", TEN_A_MINUTE, 1, None), ("b", FIVE_A_SECOND, 1, Level(0, 0, False)))))
    assert found["RateLimit"] == '"b";r=0;t=1'


def test_each_kind_of_field_can_be_left_out() -> None:
    one = verdict(("a", TEN_A_MINUTE, 1, Level(9, 0, True)))
    assert set(fields_of(RateLimitFields(standard=True, legacy=False).of(one))) == {"RateLimit-Policy", "RateLimit"}
    legacy = {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}
    assert set(fields_of(RateLimitFields(standard=False, legacy=True).of(one))) == legacy
    assert RateLimitFields(standard=False, legacy=False).of(one) == b""


def test_no_policy_means_no_fields() -> None:
    assert BOTH.of(Verdict(Answer.PASS, DecisionSource.NO_POLICY)) == b""


LEVELS = [
    Level(tokens, age_us, enough)
    for tokens in (0, 1, 4, 5, 14, 15)
    for age_us in (0, 1, 199_999)
    for enough in (True, False)
]


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_the_fields_are_structured_fields_of_rfc_9651_with_whole_numbers(level: Level) -> None:
    found = fields_of(BOTH.of(verdict(("a-b_c.1", TEN_A_MINUTE, 1, level), ("b", FIVE_A_SECOND, 1, level))))
    for name, parameters in (("RateLimit-Policy", {"q", "w"}), ("RateLimit", {"r", "t"})):
        members = items_of(found[name])
        assert [key for key, _ in members] == ["a-b_c.1", "b"]
        for _, values in members:
            assert set(values) - {"t"} == parameters - {"t"}
            assert all(type(value) is int and value >= 0 for value in values.values())
    assert all(re.fullmatch(r"\d+", found[f"X-RateLimit-{name}"]) for name in ("Limit", "Remaining", "Reset"))


@pytest.mark.parametrize("level", LEVELS, ids=str)
@pytest.mark.parametrize("cost", [0, 1, 7])
def test_the_fast_way_for_one_policy_says_what_the_plain_way_says(level: Level, cost: int) -> None:
    one = verdict(("ratelimit", TEN_A_MINUTE, cost, level))
    assert BOTH.of(one) == BOTH.plainly(one)
