"""Tables of forwarded heads: which fields are dropped, kept, replaced or appended."""

from collections.abc import Sequence

import pytest
from sidegate.edge.field_names import CLAIMS, removable, request_names, response_names
from sidegate.edge.heads import RequestHead, ResponseHead
from sidegate.edge.plain_head import valid_hosts
from sidegate.edge.request_reader import RequestReader
from sidegate.edge.response_reader import ResponseReader
from sidegate.edge.rewrite import names_host, origin_form, request_head, response_head, status_line

Pairs = Sequence[tuple[bytes, bytes]]
NAMES = request_names({"x-user-id"})


def read_request(*fields: tuple[bytes, bytes], target: bytes = b"/") -> RequestHead:
    """The head of a request with these fields; the Host is app.test where none of them is one."""
    lines = [b"%b: %b" % field for field in fields]
    if not any(name.lower() == b"host" for name, _ in fields):
        lines.append(b"Host: app.test")
    raw = b"\r\n".join([b"GET %b HTTP/1.1" % target, *lines, b"", b""])
    head = RequestReader(32 * 1024).read_head(raw, NAMES)
    assert head is not None
    return head


def request_lines(
    *fields: tuple[bytes, bytes],
    target: bytes = b"/",
    connection: Sequence[bytes] = (),
    peer: bytes = b"10.0.0.9",
    trusted: bool = False,
) -> list[bytes]:
    """The lines of the head that the application gets for these fields."""
    parsed = read_request(*fields, *((b"Connection", value) for value in connection), target=target)
    head = request_head(parsed, b"app:9000", peer, b"", trusted=trusted)
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


def response_lines(*fields: tuple[bytes, bytes], connection: Sequence[bytes] = (), added: bytes = b"") -> list[bytes]:
    lines = [b"%b: %b" % field for field in (*fields, *((b"Connection", value) for value in connection))]
    reader = ResponseReader(response_names())
    reader.expect(False)
    parsed = reader.read_head(b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""]))
    assert parsed is not None
    head = response_head(parsed, added)
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


# What concerns one hop only

HOP_BY_HOP = [
    b"Keep-Alive",
    b"Proxy-Authenticate",
    b"Proxy-Authorization",
    b"Proxy-Connection",
    b"TE",
    b"Trailer",
    b"Upgrade",
]


@pytest.mark.parametrize("name", [*HOP_BY_HOP, b"Connection", b"Content-Length", b"Expect", b"eXpEcT"])
def test_a_hop_by_hop_field_of_a_request_is_not_passed_on(name: bytes) -> None:
    assert not [
        line
        for line in request_lines((name, b"5" if name == b"Content-Length" else b"x"))
        if line.lower().startswith(name.lower() + b":")
    ]


@pytest.mark.parametrize("name", [*HOP_BY_HOP, b"Connection", b"Content-Length", b"kEEP-aLIVE"])
def test_a_hop_by_hop_field_of_an_answer_is_not_passed_on(name: bytes) -> None:
    assert not [
        line
        for line in response_lines((name, b"5" if name == b"Content-Length" else b"x"))
        if line.lower().startswith(name.lower() + b":")
    ]


def test_everything_else_is_passed_on_byte_for_byte_and_in_order() -> None:
    fields = [(b"X-a", b"1"), (b"COOKIE", b"a=\xff"), (b"x-A", b""), (b"Accept", b"*/*, a")]
    assert request_lines(*fields)[1:5] == [b"X-a: 1", b"COOKIE: a=\xff", b"x-A: ", b"Accept: */*, a"]
    assert response_lines(*fields)[1:5] == [b"X-a: 1", b"COOKIE: a=\xff", b"x-A: ", b"Accept: */*, a"]


@pytest.mark.parametrize(
    "connection", [[b"X-Private"], [b"close, X-Private"], [b"close", b"x-private"], [b"X-PRIVATE \t, , close"]]
)
def test_fields_named_by_connection_are_not_forwarded(connection: list[bytes]) -> None:
    assert b"X-Private: p" not in request_lines((b"X-Private", b"p"), connection=connection)
    assert b"X-Private: p" not in response_lines((b"X-Private", b"p"), connection=connection)


@pytest.mark.parametrize("name", [b"X-User-ID", b"Host", b"Cache-Control", b"Via"])
def test_fields_that_decide_a_limit_cannot_be_removed_by_connection(name: bytes) -> None:
    lines = request_lines((name, b"value"), connection=[name])
    assert b"%b: value" % name in lines


def test_naming_forwarding_fields_in_connection_changes_nothing() -> None:
    names = [b"X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto"]
    fields = [(b"X-Forwarded-For", b"1.2.3.4"), (b"X-Forwarded-Host", b"h"), (b"X-Forwarded-Proto", b"https")]
    with_names = request_lines(*fields, connection=names, trusted=True)
    assert with_names == request_lines(*fields, trusted=True)


def test_names_in_connection_are_read_as_a_list() -> None:
    assert removable(NAMES, b"close, X-A, x-b\t") == {b"close", b"x-a", b"x-b"}


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


# Values of Forwarded, by X-Forwarded-* and Forwarded of the request


@pytest.mark.parametrize(
    ("fields", "trusted", "expected"),
    [
        ([], False, b'for=10.0.0.9;host="app.test";proto=http'),
        ([(b"Forwarded", b"for=6.6.6.6;proto=https")], False, b'for=10.0.0.9;host="app.test";proto=http'),
        ([(b"fORWARDED", b"for=1.2.3.4;proto=https")], True, b"for=1.2.3.4;proto=https, for=10.0.0.9"),
        ([(b"Forwarded", b"for=a"), (b"Forwarded", b"for=b")], True, b"for=a, for=b, for=10.0.0.9"),
        ([], True, b'for=10.0.0.9;host="app.test";proto=http'),
        (
            [(b"X-Forwarded-For", b"1.2.3.4"), (b"X-Forwarded-Proto", b"https"), (b"X-Forwarded-Host", b"o:1")],
            True,
            b'for=1.2.3.4;host="o:1";proto=https, for=10.0.0.9',
        ),
        (
            [(b"X-Forwarded-For", b"2001:db8::1, [::1]:8,9.9.9.9:80"), (b"X-Forwarded-For", b" evil;by=x , \t")],
            True,
            (
                b'for="[2001:db8::1]";host="app.test";proto=http, for="[::1]:8", for="9.9.9.9:80", for=unknown, '
                b"for=unknown, for=10.0.0.9"
            ),
        ),
        (
            [(b"X-Forwarded-Host", b'a";proto=https'), (b"X-Forwarded-Proto", b"https;for=x")],
            True,
            b"for=10.0.0.9",
        ),
        ([(b"X-Forwarded-For", b"1" * 65)], True, b'for=unknown;host="app.test";proto=http, for=10.0.0.9'),
    ],
)
def test_forwarded_agrees_with_the_x_forwarded_fields(fields: Pairs, trusted: bool, expected: bytes) -> None:
    lines = request_lines((b"Host", b"app.test"), *fields, trusted=trusted)
    assert [line for line in lines if line.lower().startswith(b"forwarded:")] == [b"Forwarded: " + expected]


def test_an_ipv6_peer_is_quoted_in_forwarded() -> None:
    assert b'Forwarded: for="[2001:db8::9]";host="app.test";proto=http' in request_lines(peer=b"2001:db8::9")


def test_a_long_chain_of_addresses_is_cut_at_its_far_end_in_forwarded() -> None:
    lines = request_lines((b"X-Forwarded-For", b"1.1.1.1," * 3000 + b"2.2.2.2"), trusted=True)
    (forwarded,) = [line for line in lines if line.startswith(b"Forwarded:")]
    assert forwarded.count(b"for=") == 33
    assert forwarded.endswith(b"for=1.1.1.1, for=2.2.2.2, for=10.0.0.9")


# Fields that applications believe of a proxy
CLAIMED = [
    *(name.encode() for name in sorted(CLAIMS)),
    *(b"X-FORWARDED-PORT", b"x-forwarded-prefix", b"X-Forwarded-Ssl", b"X-Forwarded-Anything-Else"),
]


@pytest.mark.parametrize("name", CLAIMED)
@pytest.mark.parametrize("general", [False, True], ids=["plain lane", "general lane"])
def test_a_claim_passes_from_a_trusted_peer_only(name: bytes, general: bool) -> None:
    fields = [(name, b"claimed"), *([(b"TE", b"x")] if general else []), (name, b"twice")]
    assert [line for line in request_lines(*fields) if line.lower().startswith(name.lower() + b":")] == []
    passed = request_lines(*fields, connection=[name], trusted=True)
    assert [line for line in passed if line.startswith(name + b":")] == [name + b": claimed", name + b": twice"]


@pytest.mark.parametrize("name", [b"X_Real_IP", b"X.Forwarded.Port", b"x_forwarded-prefix", b"CLIENT_IP"])
def test_a_claim_in_a_spelling_of_wsgi_never_passes(name: bytes) -> None:
    names = request_names(set(), pass_underscores=True)
    head = RequestReader(1024).read_head(b"GET / HTTP/1.1\r\nHost: h\r\n%b: 1\r\n\r\n" % name, names)
    assert head is not None
    assert name not in request_head(head, b"app:9000", b"10.0.0.9", b"", trusted=True)


def test_a_policy_reads_a_claim_as_it_was_sent() -> None:
    names = request_names({"x-real-ip", "x-forwarded-port"})
    raw = b"GET / HTTP/1.1\r\nHost: h\r\nX-Real-IP: 1.1.1.1\r\nX-Forwarded-Port: 443\r\n\r\n"
    head = RequestReader(1024).read_head(raw, names)
    assert head is not None
    assert (head.get("X-Real-IP"), head.get("x-forwarded-port")) == ("1.1.1.1", "443")
    assert b"1.1.1.1" not in request_head(head, b"app:9000", b"10.0.0.9", b"", trusted=False)


def test_an_answer_keeps_fields_that_are_claims_in_requests() -> None:
    assert b"X-Forwarded-Port: 1" in response_lines((b"X-Forwarded-Port", b"1"))


def test_without_via_neither_head_has_the_field() -> None:
    head = read_request()
    assert b"Via" not in request_head(head, b"app:9000", b"10.0.0.9", b"", trusted=False, via=b"")
    assert b"Via" not in request_head(head, b"app:9000", b"10.0.0.9", b"", trusted=True, via=b"")
    assert b"Via" not in response_head(ResponseHead(200, [b"HTTP/1.1 200 OK"], 0, dated=True), b"", b"")


def test_via_is_appended_to_an_existing_one() -> None:
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
    parsed = RequestReader(1024).read_head(b"GET / HTTP/1.0\r\n\r\n", NAMES)
    assert parsed is not None
    assert b"\r\nHost: app:9000\r\n" in request_head(parsed, b"app:9000", b"10.0.0.9", b"", trusted=False)


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
    lines = request_lines((b"Host", b"H"), target=b"http://h/x")
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
    assert valid_hosts[host.encode()]


@pytest.mark.parametrize(
    "host", ["a b", "a/b", "a?b", "a#b", "a@b", "a\\b", "a\tb", "h:80:80", "h:a", "[::1", "[g]", "a\udcff", "a\n"]
)
def test_an_ambiguous_host_is_invalid(host: str) -> None:
    assert not valid_hosts[host.encode("utf-8", "surrogateescape")]


# Status lines


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        (200, "OK", b"HTTP/1.1 200 OK"),
        (299, "Fine By Me", b"HTTP/1.1 299 Fine By Me"),
        (200, "", b"HTTP/1.1 200 "),
        (404, "gr\udcfc\udcdfe", b"HTTP/1.1 404 Not Found"),
        (599, "\x01", b"HTTP/1.1 599 "),
    ],
)
def test_a_reason_is_kept_where_it_is_plain_text(status: int, reason: str, line: bytes) -> None:
    assert status_line(status, reason) == line
