"""Heads that a connection has seen before are not parsed again: nothing of that may be seen from outside."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sidegate.config import Settings, compile_policies
from sidegate.decision.policy import PolicyMatch
from sidegate.decision.verdict import Verdict
from sidegate.edge import client, upstream
from sidegate.edge.client import LONGEST_KNOWN_HEAD_BYTES
from sidegate.edge.headers import Forwarding

from tests.edge.fuzz_bench import PASSES, Edge, statuses_in

GET = b"GET /a HTTP/1.1\r\nHost: a\r\nX-User-ID: u\r\n\r\n"
LONG = b"GET /a HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * LONGEST_KNOWN_HEAD_BYTES + b"\r\n\r\n"
REQUESTS = [
    GET,
    GET.replace(b"/a", b"/b"),
    GET.replace(b"GET", b"HEAD"),
    GET.replace(b"1.1", b"1.0"),
    GET.replace(b"1.1\r\n", b"1.0\r\nConnection: keep-alive\r\n"),
    GET.replace(b"\r\n\r\n", b"\r\nConnection: X-User-ID\r\n\r\n"),
    GET.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"),
    GET.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc"),
    GET.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    GET.replace(b"GET", b"OPTIONS").replace(b"\r\n\r\n", b"\r\nMax-Forwards: 0\r\n\r\n"),
    GET.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"),
]
BROKEN = [
    GET.replace(b"Host: a", b"Host: a b"),
    GET.replace(b"HTTP/1.1", b"HTTP/2.0"),
    GET.replace(b"\r\n\r\n", b"\r\n x\r\n\r\n"),
]
ANSWER = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nok"
ANSWERS = [
    ANSWER,
    ANSWER.replace(b"ok", b"no"),
    ANSWER.replace(b"X-A: 1", b"Connection: X-A\r\nX-A: 1"),
    ANSWER.replace(b": 2\r\n\r\nok", b": 0\r\n\r\n"),
    ANSWER + b"HTTP/1.1 200 stray\r\n\r\n",
    ANSWER.replace(b"200 OK", b"204 No Content").replace(b"ok", b""),
    ANSWER.replace(b"200 OK", b"304 Not Modified").replace(b"ok", b""),
    ANSWER.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ANSWER.replace(b"X-A: 1", b"Connection: close"),
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ANSWER,
    ANSWER.replace(b"Content-Length: 2\r\n\r\nok", b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    b"HTTP/1.1 200 OK\nContent-Length: 4\n\n\r\n\r\nHTTP",
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\n\r\n\r\nHTTP",
    ANSWER.replace(b"\r\n\r\nok", b"\r\nX-Long: " + b"x" * 5000 + b"\r\n\r\nok"),
]


@contextmanager
def nothing_known() -> Iterator[None]:
    """Every head is parsed."""
    with patch.object(client, "LONGEST_KNOWN_HEAD_BYTES", 0), patch.object(upstream, "_KNOWN_BYTES", 0):
        yield


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % len(data) for place in places} - {0})
    return [data[begin:end] for begin, end in zip([0, *ends], [*ends, len(data)], strict=True)]


async def seen_of(pieces: list[bytes], answers: list[list[bytes]]) -> tuple[object, ...]:
    """All that can be seen of a connection that brought these pieces."""
    edge = Edge(answers)
    for piece in pieces:
        await edge.feed([piece])
    seen = edge.client.written, edge.client.is_closing(), list(edge.requests)
    await edge.close()
    told = [(record.facts.method, record.facts.target, record.status, record.error) for record in edge.records]
    return *seen, told


PIECES: st.SearchStrategy[list[int]] = st.one_of(st.just([]), st.just([]), st.lists(st.integers(0, 5000), max_size=2))


@given(
    requests=st.lists(
        st.tuples(st.sampled_from(REQUESTS * 2 + BROKEN + [LONG]), PIECES, st.integers(1, 3)), max_size=5
    ),
    answers=st.lists(st.tuples(st.sampled_from(ANSWERS), PIECES, st.integers(1, 3)), max_size=5),
    joined=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_what_is_known_changes_nothing_that_can_be_seen(
    requests: list[tuple[bytes, list[int], int]], answers: list[tuple[bytes, list[int], int]], joined: bool
) -> None:
    pieces = [piece for data, places, times in requests for _ in range(times) for piece in cut(data, places)]
    if joined:  # pipelined
        pieces = [b"".join(pieces[at : at + 2]) for at in range(0, len(pieces), 2)]
    replies = [cut(data, places) for data, places, times in answers for _ in range(times)]
    with nothing_known():
        wanted = asyncio.run(seen_of(pieces, replies))
    assert asyncio.run(seen_of(pieces, replies)) == wanted


async def test_a_head_seen_before_is_not_parsed_again() -> None:
    edge = Edge()
    await edge.feed([GET])
    connection = next(iter(edge._server.connections))
    with patch.object(connection, "_parser", None):
        await edge.feed([GET])
    assert edge.client.written.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert edge.requests[0] == edge.requests[1]
    await edge.close()


async def test_a_known_head_that_ends_another_one_is_parsed_with_it() -> None:
    edge = Edge()
    known = b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    await edge.feed([known])
    await edge.feed([b"GET /b HTTP/1.1\r\nHost: a\r\nX-Held: "])
    await edge.feed([known])
    assert [request.split()[1] for request in edge.requests] == [b"/a", b"/b"]
    assert b"X-Held: GET /a HTTP/1.0\r\n" in edge.requests[1]
    await edge.close()


async def test_a_known_head_obeys_the_configuration_that_is_in_force_now() -> None:
    edge = Edge()
    gateway = edge._server.gateway
    asked: list[Sequence[PolicyMatch]] = []

    def decide(applied: Sequence[PolicyMatch], told: Callable[[Verdict], None]) -> None:
        asked.append(applied)
        told(PASSES)

    gateway.decide = decide
    await edge.feed([GET, GET])
    policy = {"name": "p", "key": "header:X-User-ID", "limit": "1/s"}
    gateway.policies = policies = compile_policies(Settings.model_validate({"policies": [policy]}))
    gateway.forwarding = Forwarding("elsewhere:1", {"x-user-id"})
    await edge.feed([GET])
    names = [[entry.policy.name for entry in applied] for applied in asked]
    assert names == [[], [], ["p"]]
    assert asked[2][0].policy in policies.policies
    await edge.close()


async def test_fields_that_decide_are_passed_on_once_the_configuration_says_so() -> None:
    edge = Edge()
    named_away = GET.replace(b"\r\n\r\n", b"\r\nConnection: X-User-ID\r\n\r\n")
    await edge.feed([named_away])
    edge._server.gateway.forwarding = Forwarding("app:1", {"x-user-id"})
    await edge.feed([named_away])
    assert [b"X-User-ID: u" in request for request in edge.requests] == [False, True]
    await edge.close()


@pytest.mark.parametrize("end_of_line", [b"\n", b"\r\n"])
async def test_what_comes_behind_an_answer_is_nobodys_whatever_its_lines_end_with(end_of_line: bytes) -> None:
    """To look for the end of the head where its body has an empty line would make four stray bytes look like the body."""
    loose = b"HTTP/1.1 200 OK\nContent-Length: 4" + end_of_line + b"\n\r\n\r\nHTTP"
    edge = Edge([[loose], [loose], [ANSWER]])
    for _ in range(3):
        await edge.feed([GET])
    assert statuses_in(edge.client.written, ["GET"] * 3) == [200] * 3
    assert edge.client.written.endswith(b"\r\n\r\nok")
    await edge.close()


async def test_answers_with_a_known_head_keep_their_own_bodies() -> None:
    bodies = [b"01", b"02", b"03"]
    edge = Edge([[ANSWER.replace(b"ok", body)] for body in bodies])
    for _ in bodies:
        await edge.feed([GET])
    heads = [edge.client.written.split(body)[0].rsplit(b"HTTP/1.1", 1)[1] for body in bodies]
    assert edge.client.written == b"".join(b"HTTP/1.1" + heads[0] + body for body in bodies)
    await edge.close()
