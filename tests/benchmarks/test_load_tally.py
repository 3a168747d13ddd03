"""Users held against what their buckets must admit, with a clock moved by hand."""

from dataclasses import replace

import pytest

from benchmarks.load_client import Answer, Outcome, policy_names
from benchmarks.load_policy import Allowance
from benchmarks.load_report import total
from benchmarks.load_run import Load, Schedule, place
from benchmarks.load_tally import Row, Tally, open_accounts

# 10 of 15 tokens, another every 6 s.
DEMO = Allowance("ratelimit", "alice", burst=15, cost=1, rate_per_s=1 / 6, remaining=10, most=10.1, asked_s=100.0)


def tally_of(outcomes: str, *allowances: Allowance, step_s: float = 0.01, policies: str = "ratelimit") -> Tally:
    """One user's tally after Admitted, Refused and Failed requests, each `step_s` after the one before."""
    tally = Tally(open_accounts(["alice"], [allowances]), "/api/data")
    kinds = {"A": (Outcome.ADMITTED, "200"), "R": (Outcome.REFUSED, "429"), "F": (Outcome.FAILED, "503")}
    for number, letter in enumerate(outcomes):
        outcome, result = kinds[letter]
        sent_s = 100.1 + number * step_s
        answer = Answer(outcome, sent_s, sent_s + 0.001, result, policies=frozenset(policies.split()), marked=True)
        tally.count(tally.users[0], answer, sent_s)
    return tally


@pytest.mark.parametrize(
    ("outcomes", "step_s", "at_least", "at_most", "faults"),
    [
        ("A" * 10 + "R" * 5, 0.01, 10, 10, 0),
        ("A" * 12 + "R" * 3, 0.01, 10, 10, 1),  # two too many
        ("A" * 9 + "R" * 6, 0.01, 10, 10, 1),  # one withheld
        ("A" * 5, 0.01, None, 10, 0),  # never refused, so demand was no higher
        ("R" * 5, 0.01, 10, None, 1),
        ("A" * 10 + "R" * 50 + "A", 0.1, 10, 11, 0),  # one grew, 6 s later
        ("A" * 10 + "R" * 80, 0.1, 11, 10, 1),  # one grew, and was withheld
        ("A" * 10 + "F" + "R" * 4, 0.01, None, 10, 1),  # the failure is the fault, not what follows from it
    ],
)
def test_a_user_is_held_against_its_bucket(
    outcomes: str, step_s: float, at_least: int | None, at_most: int | None, faults: int
) -> None:
    tally = tally_of(outcomes, DEMO, step_s=step_s)
    row = tally.rows()[0]
    assert (row.at_least, row.at_most, len(tally.faults())) == (at_least, at_most, faults)
    assert row.wrong == bool(faults)


def test_the_order_of_overlapping_answers_makes_no_difference() -> None:
    tally = Tally(open_accounts(["alice"], [[DEMO]]), "/api/data")
    fields = {"policies": frozenset({"ratelimit"}), "marked": True}
    refused = Answer(Outcome.REFUSED, 100.1, 100.2, "429", **fields)  # type: ignore[arg-type]
    admitted = Answer(Outcome.ADMITTED, 100.1, 100.3, "200", **fields)  # type: ignore[arg-type]
    for answer in [refused, *[admitted] * 10]:
        tally.count(tally.users[0], answer, answer.sent_s)
    assert tally.faults() == []


def test_a_policy_that_does_not_apply_to_the_path_sets_no_bound() -> None:
    other = replace(DEMO, policy="writes", remaining=2, most=2.1)
    assert tally_of("A" * 10 + "R" * 5, DEMO, other).faults() == []


def test_every_policy_that_applies_sets_a_bound() -> None:
    tight = replace(DEMO, policy="tight", remaining=2, most=2.1)
    tally = tally_of("AAARR", DEMO, tight, policies="ratelimit tight")
    assert tally.faults() == ["bucket tight:alice admitted 3 times, at most 2 is right"]


def test_users_of_one_bucket_are_bounded_together() -> None:
    shared = replace(DEMO, key="127.0.0.1")
    tally = Tally(open_accounts(["alice", "bob"], [[shared], [shared]]), "/api/data")
    answer = Answer(Outcome.ADMITTED, 100.1, 100.2, "200", policies=frozenset({"ratelimit"}), marked=True)
    for user in tally.users * 6:
        tally.count(user, answer, answer.sent_s)
    assert tally.faults() == ["bucket ratelimit:127.0.0.1 admitted 12 times, at most 10 is right"]


def test_the_most_deviating_users_come_first() -> None:
    tally = Tally(open_accounts(list("abc"), [[replace(DEMO, key=key)] for key in "abc"]), "/api/data")
    for user, admitted in zip(tally.users, (3, 12, 9), strict=True):
        for _ in range(admitted):
            answer = Answer(Outcome.ADMITTED, 100.1, 100.2, "200", policies=frozenset({"ratelimit"}), marked=True)
            tally.count(user, answer, answer.sent_s)
    assert [row.user for row in tally.rows()] == ["b", "c", "a"]


def test_a_sum_lacks_the_bound_that_one_row_lacks() -> None:
    rows = [Row("a", 10, 5, 5, 0, 4, 6), Row("b", 10, 5, 5, 0, None, 7)]
    assert total("all", rows) == Row("all", 20, 10, 10, 0, None, 13)


# -- what is sent, when and where -------------------------------------------------------------------------------------


@pytest.mark.parametrize("users", range(1, 8))
def test_each_user_goes_round_all_sidecars(users: int) -> None:
    places = [place(number, users, 3) for number in range(users * 3)]
    assert sorted(places) == [(user, target) for user in range(users) for target in range(3)]


def plan(**changes: object) -> Load:
    plain = Load(("alice",), ("http://x",), "/", "/s", 1, rate=None, requests=None, duration_s=None, timeout_s=1.0)
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "nows", "dues"),
    [
        ({"requests": 2}, [10.0, 10.5, 11.0], [10.0, 10.5, None]),
        ({"duration_s": 1.0}, [10.0, 10.9, 11.0], [10.0, 10.9, None]),
        ({"rate": 4.0, "duration_s": 0.6}, [10.0, 10.0, 10.4, 10.4], [10.0, 10.25, 10.5, None]),
        ({"rate": 4.0, "requests": 2}, [10.0, 12.0, 12.0], [10.0, 10.25, None]),
    ],
)
def test_a_schedule_returns_the_time_of_the_next_request(
    changes: dict[str, object], nows: list[float], dues: list[float | None]
) -> None:
    schedule = Schedule(plan(**changes), 10.0)
    taken = [schedule.take(now_s) for now_s in nows]
    assert [entry and entry[1] for entry in taken] == dues


def test_an_ended_schedule_hands_out_nothing() -> None:
    schedule = Schedule(plan(), 10.0)
    assert schedule.take(10.0) == (0, 10.0)
    schedule.end()
    assert schedule.take(10.0) is None


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ('"ratelimit";q=15;w=90', {"ratelimit"}),
        ('"a";q=1, "b";q=2;pk="x,y"', {"a", "b"}),
        ("token;q=1", {"token"}),
    ],
)
def test_the_answer_names_the_policies_that_applied(field: str, names: set[str]) -> None:
    assert policy_names(field) == names
