"""Refusals grouped by bucket and second, within bounds, over several workers."""

import pytest
from multidict import CIMultiDict
from sidegate.config import compile_policies, parse
from sidegate.decision.bucket import Level
from sidegate.decision.record import Record
from sidegate.decision.request import RequestFacts
from sidegate.decision.verdict import Answer, DecisionSource, Verdict
from sidegate.telemetry.outcomes import refused_buckets
from sidegate.telemetry.recent_refusals import KEPT, MOST_BUCKETS, REPORTED_S, RecentRefusals

POLICIES = compile_policies(parse("policies: [{name: users, key: header:X-User-ID, limit: 1/s}]", "c.yaml", {}))


@pytest.fixture
def recent() -> RecentRefusals:
    return RecentRefusals(lambda: POLICIES)


def refuse(recent: RecentRefusals, user: str, path: str = "/a?secret") -> None:
    facts = RequestFacts("GET", path, CIMultiDict({"X-User-ID": user}), "192.0.2.7")
    applied = POLICIES.applying(facts)
    verdict = Verdict(Answer.REFUSE, DecisionSource.STORE, applied, (Level(0, 0, enough=False),))
    record = Record(facts, 429, verdict, "", 0.0, 0.0)
    recent.note(record, refused_buckets(record, POLICIES))


def test_refusals_of_one_bucket_within_a_second_share_an_entry_with_the_newest_request(recent: RecentRefusals) -> None:
    for path in ("/a", "/b", "/c?token=secret"):
        refuse(recent, "ann", path)
    refuse(recent, "bob")
    recent.each_second()
    last, (ann, bob) = recent.after(0)
    assert last == 2
    assert {**ann, "time": ""} == {
        "time": "",
        "policy": "users",
        "key": "ann",
        "bucket": "example:users:ann",
        "count": 3,
        "client": "192.0.2.7",
        "method": "GET",
        "path": "/c",
        "retry_after_s": 1.0,
    }
    assert (bob["key"], bob["count"]) == ("bob", 1)


def test_after_returns_newer_entries_only_and_all_after_a_restart(recent: RecentRefusals) -> None:
    for user in ("ann", "bob"):
        refuse(recent, user)
        recent.each_second()
    assert [each["key"] for each in recent.after(1)[1]] == ["bob"]
    assert recent.after(2) == (2, [])
    assert len(recent.after(77)[1]) == 2


def test_a_flood_of_identities_is_bounded_and_counted(recent: RecentRefusals) -> None:
    for _ in range(KEPT // MOST_BUCKETS + 5):
        for number in range(MOST_BUCKETS * 3):
            refuse(recent, f"user-{number}")
        recent.each_second()
    _, entries = recent.after(0)
    assert len(entries) == KEPT
    others = [each for each in entries if each["policy"] == "others"]
    assert {each["count"] for each in others} == {MOST_BUCKETS * 2}
    assert len(recent.report()) == REPORTED_S * (MOST_BUCKETS + 1)


def test_reports_of_workers_are_added_once_and_a_restarted_worker_begins_anew(recent: RecentRefusals) -> None:
    worker = RecentRefusals(lambda: POLICIES)
    for user in ("ann", "bob"):
        refuse(worker, user)
        worker.each_second()
        for _ in range(2):  # the parent may pass on the same report twice
            recent.take(1, 100, worker.report())
    assert [each["key"] for each in recent.after(0)[1]] == ["ann", "bob"]
    again = RecentRefusals(lambda: POLICIES)
    refuse(again, "eve")
    again.each_second()
    recent.take(1, 101, again.report())
    assert [each["key"] for each in recent.after(2)[1]] == ["eve"]


def test_seconds_without_refusals_make_no_entries(recent: RecentRefusals) -> None:
    refuse(recent, "ann")
    for _ in range(REPORTED_S + 1):
        recent.each_second()
    assert (recent.after(0)[0], recent.report()) == (1, [])
