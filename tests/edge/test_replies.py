"""The sidecar's own answers: statuses, fields and bodies, which echo nothing of the request."""

import json
from typing import Any

import pytest
from sidegate.decision.bucket import Charge, Level, Limit, Rate
from sidegate.decision.policy import Policy, PolicyMatch
from sidegate.decision.verdict import Answer, DecisionSource, Verdict
from sidegate.edge.failures import KEEPS_CONNECTION, Failure
from sidegate.edge.rate_limit_fields import RateLimitFields
from sidegate.edge.replies import RefusalReplies, failure_reply, page, retry_after_s

LIMIT = Limit(Rate(1, 6_000_000), 15, 10, 3_600_000)
IDENTITY = "alice-the-secret"


def parsed(reply: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = reply.partition(b"\r\n\r\n")
    line, *lines = head.decode("ascii").split("\r\n")
    pairs = [text.split(": ", 1) for text in lines]
    fields = dict(pairs)
    assert len(fields) == len(pairs), "no field occurs twice"
    return line, fields, body


def refused(*levels: Level | None, cost: int = 1, blocked: bool = False, shadow: tuple[int, ...] = ()) -> Verdict:
    applied = [
        PolicyMatch(
            Policy(f"policy-{n}", limit=LIMIT, shadow=n in shadow),
            None if blocked else Charge(f"example:policy-{n}:{IDENTITY}", LIMIT, cost, n in shadow),
        )
        for n in range(len(levels))
    ]
    return Verdict(Answer.REFUSE, DecisionSource.STORE, applied, levels)


# Refusals

REPLIES = RefusalReplies(RateLimitFields(standard=True, legacy=False))


def test_a_refusal_names_the_refusing_policies_and_retry_after() -> None:
    verdict = refused(Level(0, 1_500_000, False), Level(3, 0, True), Level(0, 0, False))
    line, fields, body = parsed(REPLIES.of(verdict, head_only=False, connection=b"X: y\r\n"))
    assert line == "HTTP/1.1 429 Too Many Requests"
    assert fields == {
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        "RateLimit-Policy": fields["RateLimit-Policy"],
        "RateLimit": fields["RateLimit"],
        "Retry-After": "6",
        "Date": fields["Date"],
        "X": "y",
    }
    problem = json.loads(body)
    assert problem["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert (problem["status"], problem["title"], problem["error"]) == (429, "Too Many Requests", "rate_limit_exceeded")
    assert problem["violated-policies"] == ["policy-0", "policy-2"]
    assert {"detail", "message"} <= set(problem)


def test_a_refusal_echoes_nothing_of_the_request_and_is_short() -> None:
    reply = REPLIES.of(refused(Level(0, 0, False)), head_only=False, connection=b"")
    assert IDENTITY.encode() not in reply
    assert len(reply) < 700


def test_a_later_refusal_of_the_same_bucket_has_its_current_level() -> None:
    replies = RefusalReplies(RateLimitFields(standard=True, legacy=False))
    level = Level(0, 0, False)
    early = replies.of(refused(level), head_only=False, connection=b"")
    assert replies.of(refused(level), head_only=False, connection=b"") == early
    late = replies.of(refused(Level(0, 4_000_000, False)), head_only=False, connection=b"")
    assert (b"Retry-After: 6\r\n" in early, b"Retry-After: 2\r\n" in late) == (True, True)
    closing = replies.of(refused(level), head_only=True, connection=b"Connection: close\r\n")
    assert closing.endswith(b"Connection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("level", "cost", "seconds"),
    [
        (Level(0, 0, False), 1, 6),
        (Level(0, 1, False), 1, 6),  # 5.999999 s: never earlier than the token comes
        (Level(0, 1_000_000, False), 1, 5),
        (Level(0, 1_000_001, False), 1, 5),
        (Level(0, 5_999_999, False), 1, 1),  # at least a second
        (Level(2, 0, False), 5, 18),
    ],
)
def test_retry_after_is_whole_seconds_rounded_up(level: Level, cost: int, seconds: int) -> None:
    assert retry_after_s(refused(level, cost=cost)) == seconds


def test_retry_after_waits_for_the_slowest_of_all_policies() -> None:
    assert retry_after_s(refused(Level(0, 5_000_000, False), Level(0, 0, False), Level(9, 0, True))) == 6


def test_retry_after_does_not_wait_for_a_shadow() -> None:
    assert retry_after_s(refused(Level(0, 5_000_000, False), Level(0, 0, False), shadow=(1,))) == 1


def test_retry_after_of_a_blocked_key_is_an_hour() -> None:
    assert retry_after_s(refused(None, blocked=True)) == 3600


# Faults


@pytest.mark.parametrize("fault", list(Failure))
def test_every_fault_is_a_problem_of_its_status(fault: Failure) -> None:
    line, fields, body = parsed(failure_reply(fault, head_only=False, connection=b"Connection: close\r\n"))
    problem = json.loads(body)
    assert line.startswith(f"HTTP/1.1 {fault.status} ")
    assert (problem["status"], problem["error"]) == (fault.status, fault.reason)
    assert {"type", "title", "detail", "message"} <= set(problem)
    assert fields["Content-Type"] == "application/problem+json"
    assert fields["Content-Length"] == str(len(body))
    assert fields["Cache-Control"] == "no-store"
    assert fields["Connection"] == "close"
    assert ("Retry-After" in fields) == (fault.status == 503)


def test_an_outage_of_the_store_is_answered_503() -> None:
    _, fields, body = parsed(failure_reply(Failure.STORE_UNAVAILABLE, head_only=False, connection=b""))
    problem = json.loads(body)
    assert problem["status"] == 503
    assert problem["type"] == "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
    assert not [name for name in fields if "ratelimit" in name.lower()]


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Failure.BAD_REQUEST, 400),
        (Failure.HEAD_TIMEOUT, 408),
        (Failure.BODY_TIMEOUT, 408),
        (Failure.EXPECTATION, 417),
        (Failure.HEAD_TOO_LARGE, 431),
        (Failure.INTERNAL, 500),
        (Failure.CONNECT, 501),
        (Failure.UPSTREAM_CONNECT, 502),
        (Failure.UPSTREAM_BROKEN, 502),
        (Failure.TOO_MANY_CONNECTIONS, 503),
        (Failure.UPSTREAM_BUSY, 503),
        (Failure.UPSTREAM_TIMEOUT, 504),
        (Failure.VERSION, 505),
    ],
)
def test_each_failure_has_the_status_of_its_cause(fault: Failure, status: int) -> None:
    assert fault.status == status


def test_a_connection_whose_framing_is_in_doubt_is_not_kept() -> None:
    doubtful = {
        Failure.BAD_REQUEST,
        Failure.HEAD_TOO_LARGE,
        Failure.HEAD_TIMEOUT,
        Failure.BODY_TIMEOUT,
        Failure.CONNECT,
        Failure.VERSION,
    }
    assert not doubtful & KEEPS_CONNECTION


# To HEAD


def test_an_answer_to_head_has_the_length_and_not_the_body() -> None:
    verdict = refused(Level(0, 0, False))
    replies: list[tuple[bytes, bytes]] = [
        (
            REPLIES.of(verdict, head_only=True, connection=b""),
            REPLIES.of(verdict, head_only=False, connection=b""),
        ),
        (
            failure_reply(Failure.UPSTREAM_CONNECT, head_only=True, connection=b""),
            failure_reply(Failure.UPSTREAM_CONNECT, head_only=False, connection=b""),
        ),
        (page(200, {"a": 1}, head_only=True, connection=b""), page(200, {"a": 1}, head_only=False, connection=b"")),
    ]
    for head, whole in replies:
        assert whole.startswith(head)
        assert parsed(head)[2] == b""
        assert parsed(head)[1]["Content-Length"] == str(len(parsed(whole)[2]))


# Pages


def test_a_page_is_json_and_never_cached() -> None:
    content: dict[str, Any] = {"status": "ok", "text": "é\r\n"}
    line, fields, body = parsed(page(503, content, head_only=False, connection=b""))
    assert line == "HTTP/1.1 503 Service Unavailable"
    assert (fields["Content-Type"], fields["Cache-Control"]) == ("application/json", "no-store")
    assert json.loads(body) == content
