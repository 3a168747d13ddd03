"""Invalid requests as raw bytes, sent to a real sidecar before an application that records what it receives.

Each case states its result. In every case the application receives no ambiguous and no smuggled request, a connection
with a refused request is closed, and exactly the forwarded requests are charged.
"""

from dataclasses import dataclass, field
from enum import Enum

import pytest

from tests.raw_client import Broken, RawClient, Reply, get, request
from tests.recorder import Act, Recorder, eventually
from tests.servers import StoreServer
from tests.sidecar import Sidecar, spent

HOST = b"Host: app.test\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: app.test\r\nX-User-ID: mallory\r\n\r\n"
NOBODY = "client_ip=127.0.0.1"  # the key of requests without X-User-ID


class Fate(Enum):
    """The expected result of a case."""

    REJECTED = "answered by the sidecar, or closed; nothing at the application, no token"
    PASSED = "each request at the application, each answered, a token each"


@dataclass(frozen=True)
class Case:
    id: str
    title: str
    raw: bytes
    fate: Fate
    requests: int = 1
    statuses: tuple[int, ...] = (400,)
    targets: tuple[bytes, ...] = ()
    spends: dict[str, int] = field(default_factory=lambda: {NOBODY: 1})


def head(extra: bytes = b"", target: bytes = b"/", method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return b"%b %b %b\r\n%b%b\r\n" % (method, target, version, HOST, extra)


def post(extra: bytes, body: bytes = b"") -> bytes:
    return head(extra, method=b"POST") + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n", body)


def rejected(id_: str, title: str, raw: bytes, *statuses: int) -> Case:
    return Case(id_, title, raw, Fate.REJECTED, 0, statuses or (400,), (), {})


def passed(id_: str, title: str, raw: bytes, *targets: bytes, spends: dict[str, int] | None = None) -> Case:
    targets = targets or (b"/",)
    return Case(id_, title, raw, Fate.PASSED, len(targets), (200,), targets, spends or {NOBODY: len(targets)})


def sized(extra: bytes, behind: bytes = SMUGGLED) -> bytes:
    return extra % len(behind)


FRAMING = [
    rejected(
        "A01",
        "Content-Length and chunked together",
        post(b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % (5 + len(SMUGGLED)), b"0\r\n\r\n" + SMUGGLED),
    ),
    rejected(
        "A02",
        "chunked and Content-Length together",
        post(
            b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
        ),
    ),
    rejected("A03", "two different lengths", post(sized(b"Content-Length: 0\r\nContent-Length: %d\r\n"), SMUGGLED)),
    rejected("A03b", "twice the same length", post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello")),
    rejected("A04", "a list of lengths", post(b"Content-Length: 5, 5\r\n", b"hello")),
    rejected("A05", "a length with a plus sign", post(b"Content-Length: +5\r\n", b"hello")),
    rejected("A06", "a negative length", post(b"Content-Length: -1\r\n", SMUGGLED)),
    rejected("A06b", "an empty length", post(b"Content-Length:\r\n", SMUGGLED)),
    rejected("A06c", "a length in hex", post(b"Content-Length: 0x5\r\n", b"hello")),
    rejected("A06d", "a length with a space inside", post(b"Content-Length: 5 5\r\n", b"hello")),
    rejected("A07", "a length beyond 64 bits", post(b"Content-Length: 18446744073709551621\r\n", b"hello")),
    rejected("A08", "an unknown transfer coding", post(b"Transfer-Encoding: xchunked\r\n", b"5\r\nhello\r\n0\r\n\r\n")),
    rejected("A09", "chunked not last", post(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n" + SMUGGLED)),
    rejected("A09b", "identity before chunked", post(b"Transfer-Encoding: identity, chunked\r\n", b"0\r\n\r\n")),
    rejected("A09c", "gzip before chunked", post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n")),
    rejected("A09d", "chunked twice", post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n")),
    rejected(
        "A09e",
        "two Transfer-Encoding",
        post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    ),
    rejected(
        "A09f",
        "Transfer-Encoding: identity, and a length",
        post(b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n", b"hello"),
    ),
    rejected("A09g", "a vertical tab before chunked", post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n")),
    rejected("A09h", "a parameter on chunked", post(b"Transfer-Encoding: chunked;x=1\r\n", b"0\r\n\r\n")),
    rejected(
        "A10",
        "a space before the colon of Transfer-Encoding",
        post(b"Content-Length: %d\r\nTransfer-Encoding : chunked\r\n" % (5 + len(SMUGGLED)), b"0\r\n\r\n" + SMUGGLED),
    ),
    rejected("A11", "a folded field", head(b"X-A: b\r\n c\r\n")),
    rejected(
        "A11b", "a folded Transfer-Encoding", post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n" + SMUGGLED)
    ),
    rejected("A11c", "a folded identity", head(b"X-User-ID: alice\r\n\tbob\r\n")),
    rejected("A11d", "a fold before the first field", b"GET / HTTP/1.1\r\n Host: app.test\r\n\r\n"),
    rejected("A12", "bare line feeds", b"GET / HTTP/1.1\nHost: app.test\n\n"),
    rejected("A12b", "one bare line feed within the head", b"GET / HTTP/1.1\r\nHost: app.test\nX-A: b\r\n\r\n"),
    rejected(
        "A13",
        "a bare carriage return that hides a Transfer-Encoding",
        post(b"X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"hello"),
    ),
    rejected("A14", "NUL in a value", head(b"X-A: a\x00b\r\n")),
    rejected(
        "A20",
        "chunked in HTTP/1.0",
        head(b"Transfer-Encoding: chunked\r\n", method=b"POST", version=b"HTTP/1.0") + b"0\r\n\r\n" + SMUGGLED,
    ),
    passed(
        "A21",
        "a body of GET, and a request behind it",
        head(b"Content-Length: 5\r\n") + b"hello" + head(target=b"/two"),
        b"/",
        b"/two",
    ),
    passed(
        "A22",
        "three requests in one write",
        head(target=b"/1") + head(target=b"/2") + head(target=b"/3"),
        b"/1",
        b"/2",
        b"/3",
    ),
    rejected("A23", "a field without colon", head(b"X-A\r\n")),
    rejected("A24", "a space in a field's name", head(b"X A: b\r\n")),
    rejected("A24b", "a field without name", head(b": b\r\n")),
    rejected("A24c", "a byte over 127 in a field's name", head(b"X-\xe9: b\r\n")),
]

BODY = [
    rejected("A15", "a chunk size with 0x", chunked(b"0x5\r\nhello\r\n0\r\n\r\n")),
    rejected("A15b", "a negative chunk size", chunked(b"-1\r\nhello\r\n0\r\n\r\n")),
    rejected("A15c", "a chunk size with a space before it", chunked(b" 5\r\nhello\r\n0\r\n\r\n")),
    rejected("A15d", "an empty chunk size", chunked(b"\r\nhello\r\n0\r\n\r\n")),
    rejected("A16", "a chunk size beyond 64 bits", chunked(b"FFFFFFFFFFFFFFFF1\r\nhello\r\n0\r\n\r\n")),
    rejected("A17", "a bare line feed in a chunk extension", chunked(b"2;\nxx\r\n4c\r\n0\r\n\r\n" + SMUGGLED)),
    rejected("A17b", "a bare line feed behind a chunk size", chunked(b"5\nhello\r\n0\r\n\r\n")),
    rejected("A18", "chunk data that does not end", chunked(b"5\r\nhelloXX0\r\n\r\n")),
    rejected("A18b", "a bare line feed behind chunk data", chunked(b"5\r\nhello\n0\r\n\r\n" + SMUGGLED)),
    rejected(
        "A37",
        "100,000 trailers",
        chunked(b"1\r\na\r\n0\r\n" + b"".join(b"T%d: a\r\n" % n for n in range(100_000)) + b"\r\n"),
    ),
    rejected(
        "A19",
        "trailers with identity and framing",
        post(
            b"X-User-ID: alice\r\nTransfer-Encoding: chunked\r\n",
            b"5\r\nhello\r\n0\r\nX-User-ID: bob\r\nContent-Length: 50\r\nHost: evil\r\n\r\n",
        ),
    ),
]

LINE = [
    rejected("A25", "no Host", b"GET / HTTP/1.1\r\n\r\n"),
    rejected("A26", "two Host", b"GET / HTTP/1.1\r\nHost: app.test\r\nHost: evil.test\r\n\r\n"),
    rejected("A26b", "an authority with user and path in Host", b"GET / HTTP/1.1\r\nHost: a@b/c?d\r\n\r\n"),
    rejected("A26c", "a list in Host", b"GET / HTTP/1.1\r\nHost: app.test, evil.test\r\n\r\n"),
    rejected("A26d", "a space in Host", b"GET / HTTP/1.1\r\nHost: app.test evil.test\r\n\r\n"),
    rejected("A27", "absolute form that names another host", b"GET http://evil.test/x HTTP/1.1\r\n" + HOST + b"\r\n"),
    rejected(
        "A27b", "absolute form with user information", b"GET http://app.test@evil.test/ HTTP/1.1\r\n" + HOST + b"\r\n"
    ),
    rejected("A27c", "absolute form of another scheme", b"GET ftp://app.test/x HTTP/1.1\r\n" + HOST + b"\r\n"),
    rejected("A27d", "absolute form without host", b"GET http:///x HTTP/1.1\r\n" + HOST + b"\r\n"),
    rejected("A27e", "a target that is no path", b"GET evil HTTP/1.1\r\n" + HOST + b"\r\n"),
    rejected(
        "A27f", "absolute form over a path that names itself", b"GET http://app.test\\x/ HTTP/1.1\r\n" + HOST + b"\r\n"
    ),
    passed("A27g", "absolute form of the same host", b"GET http://app.test/x?y HTTP/1.1\r\n" + HOST + b"\r\n", b"/x?y"),
    rejected("A28", "CONNECT", b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n", 400, 501),
    rejected("A29", "HTTP/0.9", b"GET /\r\n\r\n", 400, 505),
    rejected(
        "A30",
        "the preface of HTTP/2",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]),
        400,
        505,
    ),
    rejected("A31", "HTTP/1.9", b"GET / HTTP/1.9\r\n" + HOST + b"\r\n", 400, 505),
    rejected("A31b", "HTTP/2.0 in the request line", b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 400, 505),
    rejected("A31c", "a lower-case protocol", b"GET / http/1.1\r\n" + HOST + b"\r\n", 400, 505),
    rejected("A32", "a control byte in the target", b"GET /a\x01b HTTP/1.1\r\n" + HOST + b"\r\n"),
    rejected("A32b", "a tab in the request line", b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    rejected("A32c", "an unknown method", b"FROB / HTTP/1.1\r\n" + HOST + b"\r\n"),
    rejected("A32d", "a lower-case method", b"get / HTTP/1.1\r\n" + HOST + b"\r\n"),
    rejected("A33", "a TLS greeting", bytes.fromhex("16030100c8010000c40303") + bytes(60)),
]

SIZE = [
    rejected("A34", "a request line of 70,000 bytes", head(target=b"/" + b"a" * 70_000), 400, 431),
    rejected("A35", "2,000 fields", head(b"".join(b"X-%d: a\r\n" % n for n in range(2_000))), 400, 431),
    rejected("A36", "a field of 100 KiB", head(b"X-A: " + b"a" * 102_400 + b"\r\n"), 400, 431),
    rejected(
        "A36b",
        "100 fields of 1,000 bytes",
        head(b"".join(b"X-%d: %b\r\n" % (n, b"a" * 1_000) for n in range(100))),
        400,
        431,
    ),
]

HOP = [
    passed(
        "A38",
        "Connection names the identity",
        head(b"X-User-ID: alice\r\nConnection: close, X-User-ID\r\n"),
        spends={"alice": 1},
    ),
    passed(
        "A39",
        "Connection names Host and Content-Length",
        post(sized(b"Connection: keep-alive, Content-Length, Host\r\nContent-Length: %d\r\n"), SMUGGLED),
    ),
    passed(
        "A40",
        "an upgrade to h2c",
        head(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"),
    ),
    passed(
        "A41",
        "hop-by-hop fields",
        head(
            b"TE: trailers\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n"
            b"Proxy-Authorization: Basic Zm9v\r\nConnection: TE\r\n"
        ),
    ),
    passed(
        "A42",
        "an upgrade to WebSocket, and a request of somebody else's behind it",
        head(
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            target=b"/ws",
        )
        + head(b"X-User-ID: bob\r\n", target=b"/behind"),
        b"/ws",
        b"/behind",
        spends={NOBODY: 1, "bob": 1},
    ),
]

EXPECT = [
    passed(
        "A43",
        "100-continue with the body sent at once",
        post(b"Expect: 100-continue\r\nContent-Length: 5\r\n", b"hello"),
    ),
    rejected("A44", "an unknown expectation", post(b"Expect: 200-maybe\r\nContent-Length: 5\r\n", b"hello"), 417),
    rejected("A20b", "an empty transfer coding", post(b"Transfer-Encoding: \r\n")),
    rejected(
        "A20c", "an empty transfer coding and a length", post(b"Transfer-Encoding: \r\nContent-Length: 5\r\n", b"hello")
    ),
    passed("A48", "an identity that is a list", head(b"X-User-ID: alice, bob\r\n"), spends={"alice%2C%20bob": 1}),
    passed("A49", "an identity in white space", head(b"X-User-ID: \talice \t\r\n"), spends={"alice": 1}),
    rejected("A49b", "an identity given twice", head(b"X-User-ID: alice\r\nX-User-ID: bob\r\n")),
    rejected("A49c", "an identity given twice in another case", head(b"X-User-ID: alice\r\nx-user-id: alice\r\n")),
    passed("A50", "rate-limit fields of a client's", head(b'RateLimit: "default";r=999;t=1\r\nRetry-After: 0\r\n')),
    rejected("A51", "a doubtful path", head(target=b"/a/%252e%252e/b")),
    rejected("A52", "a path above the root", head(target=b"/../b")),
]


def named(case: Case) -> str:
    return f"{case.id} {case.title}"


@pytest.mark.parametrize("case", FRAMING + BODY + LINE + SIZE + HOP + EXPECT, ids=named)
def test_a_hostile_request_does_no_harm(
    case: Case, sidecar: Sidecar, recorder: Recorder, store_server: StoreServer
) -> None:
    with RawClient(sidecar.port) as client:
        client.send(case.raw)
        replies = [client.reply() for _ in range(case.requests)] if case.fate is Fate.PASSED else []
        if case.fate is not Fate.PASSED:
            replies = all_replies(client)
    fence(sidecar, recorder)
    arrived = [received for received in recorder.requests if received.target != b"/fence"]

    assert all(reply.status in case.statuses and reply.complete for reply in replies)
    assert b"/smuggled" not in [received.target for received in arrived]
    match case.fate:
        case Fate.PASSED:
            assert [received.target for received in arrived] == list(case.targets)
            assert all(received.complete for received in arrived)
        case Fate.REJECTED:
            assert arrived == []
    assert spent(store_server) == {**case.spends, "fence": 1}


@pytest.mark.parametrize("case", BODY, ids=named)
def test_a_body_that_turns_bad_breaks_off_its_request(
    case: Case, sidecar: Sidecar, recorder: Recorder, store_server: StoreServer
) -> None:
    start, blank, body = case.raw.partition(b"\r\n\r\n")
    with RawClient(sidecar.port) as client:
        client.send(start + blank)
        (received,) = recorder.wait_for(1)
        client.send(body)
        assert [reply.status for reply in all_replies(client)] in ([400], [])
    eventually(lambda: received.connection not in recorder.open, "the end of the upstream connection")
    fence(sidecar, recorder)
    assert [(other.target, other.complete) for other in recorder.requests] == [(b"/", False), (b"/fence", True)]
    assert sum(spent(store_server).values()) == 2


def all_replies(client: RawClient) -> list[Reply]:
    """The answers until the connection ends: at most one, made by the sidecar."""
    replies = []
    try:
        replies.append(client.reply())
        assert client.rest() == b""
    except Broken:
        return replies
    assert replies[0].says_close
    assert replies[0].value("Content-Type") == "application/problem+json"
    return replies


def fence(sidecar: Sidecar, recorder: Recorder) -> None:
    """A request after all others: once it is answered, all their effects have happened."""
    assert get(sidecar.port, "/fence", "X-User-ID: fence").status == 200
    eventually(lambda: b"/fence" in [received.target for received in recorder.requests], "the fence")


# What gets through


def test_trailers_never_become_fields_of_the_request_they_follow(sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(sidecar.port) as client:
        client.send(chunked(b"5\r\nhello\r\n0\r\nX-User-ID: bob\r\nX-Secret: s\r\n\r\n"))
        reply = client.reply()
        assert (reply.status, reply.says_close) == (200, False)
    received = recorder.only()
    assert received.body == b"hello"
    assert received.values("x-user-id") == []
    assert received.values("x-secret") == []


@pytest.mark.parametrize("ending", [b"0\r\nX-User-ID: bob\r\n\r\n", b"0;a=b\r\nX-User-ID: bob\r\n\r\n"])
@pytest.mark.parametrize("pause", [False, True], ids=["in one write", "after the answer"])
def test_a_request_behind_one_with_trailers_never_carries_a_leaked_field(
    ending: bytes, pause: bool, sidecar: Sidecar, recorder: Recorder, store_server: StoreServer
) -> None:
    with RawClient(sidecar.port) as client:
        client.send(chunked(b"5\r\nhello\r\n" + ending) + (b"" if pause else head(target=b"/behind")))
        assert client.reply().status == 200
        client.send(head(target=b"/behind") if pause else b"")
        assert client.reply().status == 200
    fence(sidecar, recorder)
    assert [received.target for received in recorder.requests] == [b"/", b"/behind", b"/fence"]
    assert recorder.requests[1].values("x-user-id") == []
    assert spent(store_server) == {NOBODY: 2, "fence": 1}


def test_a_request_behind_a_clean_chunked_one_is_served_on_the_same_connection(
    sidecar: Sidecar, recorder: Recorder
) -> None:
    with RawClient(sidecar.port) as client:
        client.send(chunked(b"5\r\nhello\r\n0\r\n\r\n"))
        assert not client.reply().says_close
        assert client.get("/behind", "X-User-ID: alice").status == 200
    assert [received.values("x-user-id") for received in recorder.requests] == [[], [b"alice"]]


def test_a_request_pipelined_behind_a_chunked_one_is_served_as_its_own(sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(sidecar.port) as client:
        client.send(chunked(b"5\r\nhello\r\n0\r\n\r\n") + request("/behind", "X-User-ID: alice"))
        assert [client.reply().status for _ in range(2)] == [200, 200]
    assert [received.values("x-user-id") for received in recorder.requests] == [[], [b"alice"]]


PIPELINED = request("/first", "X-User-ID: alice") + request("/second", method="POST", body=b"hello") + request("/third")


@pytest.mark.slow
@pytest.mark.parametrize("cut", range(1, len(PIPELINED), 3))
def test_pipelined_requests_cut_anywhere_are_all_answered_in_order(
    cut: int, sidecar: Sidecar, recorder: Recorder
) -> None:
    with RawClient(sidecar.port) as client:
        client.send(PIPELINED[:cut])
        fence(sidecar, recorder)  # so that the pieces arrive apart
        client.send(PIPELINED[cut:])
        assert [client.reply().status for _ in range(3)] == [200, 200, 200]
    targets = [received.target for received in recorder.requests if received.target != b"/fence"]
    assert targets == [b"/first", b"/second", b"/third"]


def test_requests_cut_within_the_blank_line_are_all_answered(sidecar: Sidecar, recorder: Recorder) -> None:
    first, second = request("/first"), request("/second")
    for cut in (1, 2, 3):
        with RawClient(sidecar.port) as client:
            client.send(first[:-cut])
            fence(sidecar, recorder)
            client.send(first[-cut:] + second)
            assert [client.reply().status for _ in range(2)] == [200, 200], f"cut {cut} bytes before the end"


def test_hundreds_of_pipelined_requests_are_answered_in_order_and_charged_each(
    sidecar: Sidecar, recorder: Recorder, store_server: StoreServer
) -> None:
    count = 300
    with RawClient(sidecar.port) as client:
        client.send(b"".join(request(f"/{n}", "X-User-ID: alice") for n in range(count)))
        left = [int(client.reply().value("X-RateLimit-Remaining")) for _ in range(count)]
    assert [received.target for received in recorder.requests] == [b"/%d" % n for n in range(count)]
    assert left == sorted(left, reverse=True)
    assert spent(store_server) == {"alice": count}


def test_pipelining_over_the_limit_is_refused_in_order(sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(sidecar.port) as client:
        client.send(b"".join(request(f"/tight/{n}", "X-User-ID: pipeline") for n in range(4)))
        assert [client.reply().status for _ in range(4)] == [200, 200, 429, 429]
    assert len(recorder.requests) == 2


@pytest.mark.parametrize("protocol", ["websocket, h2c", "h2c", "x"])
def test_an_upgrade_is_not_passed_on_and_the_next_request_is_limited_as_any_other(
    protocol: str, sidecar: Sidecar, recorder: Recorder, store_server: StoreServer
) -> None:
    fields = (
        "Connection: Upgrade",
        f"Upgrade: {protocol}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZQ==",
    )
    with RawClient(sidecar.port) as client:
        reply = client.get("/ws", *fields)
        assert (reply.status, reply.values("Upgrade")) == (200, [])
        if reply.says_close:
            assert client.ends()
        else:
            assert client.get("/second").status == 200
    assert recorder.requests[0].values("upgrade") == []
    assert spent(store_server) == {NOBODY: len(recorder.requests)}


def test_rate_limit_fields_of_a_client_are_not_echoed(sidecar: Sidecar, recorder: Recorder) -> None:
    reply = get(sidecar.port, "/", 'RateLimit: "default";r=999;t=1', "Retry-After: 0", "X-RateLimit-Remaining: 7")
    assert reply.values("RateLimit") == ['"roomy";r=99999;t=864']
    assert reply.values("Retry-After") == []
    assert reply.values("X-RateLimit-Remaining") == ["99999"]


def test_identity_and_framing_that_connection_names_still_arrive(sidecar: Sidecar, recorder: Recorder) -> None:
    names = "Connection: X-User-ID, Host, Content-Length, X-Forwarded-For, X-Private"
    get(sidecar.port, "/", names, "X-User-ID: alice", "X-Private: p", method="POST", body=b"hello")
    received = recorder.only()
    assert received.value("x-user-id") == b"alice"
    assert received.value("host") == b"app.test"
    assert received.value("content-length") == b"5"
    assert received.value("x-forwarded-for") == b"127.0.0.1"
    assert received.values("x-private") == []


def test_a_host_that_decides_a_limit_cannot_be_swapped_by_an_absolute_target(
    sidecar: Sidecar, recorder: Recorder
) -> None:
    with RawClient(sidecar.port) as client:
        client.send(b"GET http://evil.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n")
        assert client.reply().status == 400
    with RawClient(sidecar.port) as client:
        client.send(b"GET http://evil.test/ HTTP/1.0\r\n\r\n")
        assert client.reply().status == 400
    assert recorder.requests == []


@pytest.mark.parametrize(
    "target",
    ["/tight/%61", "//tight/a", "/./tight/a", "/tight/a;x=1", "/tight%2fa", "/tight/a?x", "/tight/a#f", "/%74ight/a"],
)
def test_another_spelling_of_a_path_has_the_same_limit(target: str, sidecar: Sidecar, recorder: Recorder) -> None:
    user = f"X-User-ID: {target}"
    assert [get(sidecar.port, "/tight/a", user).status for _ in range(2)] == [200, 200]
    assert get(sidecar.port, target, user).status == 429


def test_a_fragment_does_not_reach_the_application(sidecar: Sidecar, recorder: Recorder) -> None:
    assert get(sidecar.port, "/a%20b//c?q=%41#f").status == 200
    assert recorder.only().target == b"/a%20b//c?q=%41"


# Slow, silent and unfinished


def test_a_head_that_never_ends_is_answered_408(impatient_sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(impatient_sidecar.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: app.test\r\nX-A: ")
        reply = client.reply()
        assert (reply.status, reply.says_close, client.ends()) == (408, True, True)
    assert recorder.requests == []


def test_a_head_that_drips_is_answered_408(impatient_sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(impatient_sidecar.port, patience_s=0.05) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: app.test\r\nX-A: ")

        def answered() -> bool:
            client.send(b"a")
            try:
                return client.reply().status == 408
            except TimeoutError:
                return False

        eventually(answered, "an answer to a head that never ends")
    assert recorder.requests == []


@pytest.mark.slow
def test_a_head_that_drips_behind_another_request_is_cut_off(impatient_sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(impatient_sidecar.port) as client:
        client.send(request("/") + b"GET / HTTP/1.1\r\nX-A: ")
        assert client.reply().status == 200
        client.rest()
    assert len(recorder.requests) == 1


def test_a_silent_connection_is_closed_without_an_answer(impatient_sidecar: Sidecar) -> None:
    with RawClient(impatient_sidecar.port) as client:
        assert client.ends()


def test_a_request_line_of_http_0_9_is_never_complete(impatient_sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(impatient_sidecar.port) as client:
        client.send(b"GET /\r\n")
        assert all(reply.status in (400, 408) for reply in all_replies(client))
    assert recorder.requests == []


def test_a_body_that_never_comes_is_answered_408_and_frees_its_connection(
    impatient_sidecar: Sidecar, recorder: Recorder
) -> None:
    with RawClient(impatient_sidecar.port) as client:
        client.send(post(b"Content-Length: 1000\r\n", b"abc"))
        reply = client.reply()
        assert (reply.status, reply.says_close) == (408, True)
    (received,) = recorder.wait_for(1)
    assert not received.complete
    eventually(lambda: received.connection not in recorder.open, "the end of the upstream connection")


def test_a_client_that_half_closes_has_left(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.always(Act.HOLD)
    with RawClient(sidecar.port) as client:
        client.send(head(b"Connection: close\r\n"))
        (received,) = recorder.wait_for(1)
        client.finish_sending()
        assert client.ends()
    eventually(lambda: received.connection not in recorder.open, "the end of the upstream connection")


@pytest.mark.slow
def test_a_client_that_pipelines_and_does_not_read_costs_no_memory(sidecar: Sidecar, recorder: Recorder) -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n" + bytes(65_536)
    recorder.always(large)
    assert get(sidecar.port).status == 200
    before = sidecar.rss_bytes()
    with RawClient(sidecar.port, receive_buffer_bytes=4096, patience_s=0.3) as client:
        flood = b"".join(request(f"/{n}", "X-Pad: " + "p" * 4_000) for n in range(250))
        try:
            for _ in range(64):  # 64 MiB of requests, if somebody takes them
                client.send(flood)
        except TimeoutError:
            pass  # nobody does
        assert sidecar.rss_bytes() < before + 24 * 2**20


def test_a_flood_of_bad_requests_is_no_flood_of_log_lines(sidecar: Sidecar) -> None:
    before = len(sidecar.raw_lines)
    for _ in range(50):
        with RawClient(sidecar.port) as client:
            client.send(b"\x16\x03\x01\x00\xc8" + bytes(60))
            assert client.reply().status == 400
    assert len(sidecar.raw_lines) - before <= 5
    assert all(len(line) < 600 for line in sidecar.raw_lines[before:])
