"""One decision over all policies of a request: its answer, its log line and its page."""

import pytest
from sidegate.decision.bucket import Charge, Level, Limit, Rate
from sidegate.decision.policy import OnStoreFailure, Policy, PolicyMatch
from sidegate.decision.verdict import (
    UNLIMITED,
    Answer,
    DecisionSource,
    Outcome,
    Verdict,
    decided_locally,
    outcome_of,
    store_failed,
)

SECOND = 1_000_000
LIMIT = Limit(Rate(1, SECOND), 5, 5, 1)
SLOW = Limit(Rate(1, 60 * SECOND), 5, 5, 1)
ALLOW, DENY, LOCAL = OnStoreFailure.ALLOW, OnStoreFailure.DENY, OnStoreFailure.LOCAL

HAS = Level(3, 0, True)
LACKS = Level(0, 250_000, False)


def applied(
    name: str = "p",
    *,
    cost: int = 1,
    limit: Limit = LIMIT,
    blocked: bool = False,
    shadow: bool = False,
    on_store_failure: OnStoreFailure = DENY,
) -> PolicyMatch:
    policy = Policy(name, limit=limit, shadow=shadow, on_store_failure=on_store_failure)
    return PolicyMatch(policy, None if blocked else Charge(name, limit, cost, shadow))


def refused(*entries: tuple[PolicyMatch, Level | None], by: DecisionSource = DecisionSource.STORE) -> Verdict:
    return Verdict(Answer.REFUSE, by, [entry for entry, _ in entries], [level for _, level in entries])


# -- outcomes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "entry", "level", "outcome"),
    [
        (DecisionSource.STORE, applied(), HAS, Outcome.ALLOWED),
        (DecisionSource.STORE, applied(), LACKS, Outcome.REFUSED),
        (DecisionSource.STORE, applied(shadow=True), HAS, Outcome.ALLOWED),
        (DecisionSource.STORE, applied(shadow=True), LACKS, Outcome.SHADOW_REFUSED),
        (DecisionSource.DENY_CACHE, applied(), LACKS, Outcome.REFUSED),
        (DecisionSource.DENY_CACHE, applied(), None, Outcome.ALLOWED),
        (DecisionSource.OVERRIDE, applied(blocked=True), None, Outcome.REFUSED),
        (DecisionSource.OVERRIDE, applied(blocked=True, shadow=True), None, Outcome.SHADOW_REFUSED),
        (DecisionSource.STORE_FAILURE, applied(), None, Outcome.STORE_DENIED),
        (DecisionSource.STORE_FAILURE, applied(on_store_failure=ALLOW), None, Outcome.STORE_ALLOWED),
        (DecisionSource.STORE_FAILURE, applied(shadow=True), None, Outcome.STORE_ALLOWED),
        (DecisionSource.LOCAL, applied(on_store_failure=LOCAL), HAS, Outcome.LOCAL_ALLOWED),
        (DecisionSource.LOCAL, applied(on_store_failure=LOCAL), LACKS, Outcome.LOCAL_REFUSED),
        (DecisionSource.LOCAL, applied(on_store_failure=LOCAL, shadow=True), LACKS, Outcome.SHADOW_REFUSED),
        (DecisionSource.LOCAL, applied(on_store_failure=ALLOW), None, Outcome.STORE_ALLOWED),
        (DecisionSource.LOCAL, applied(shadow=True), None, Outcome.STORE_ALLOWED),
        (DecisionSource.LOCAL, applied(blocked=True, shadow=True), None, Outcome.SHADOW_REFUSED),
    ],
)
def test_each_policy_has_one_outcome(
    by: DecisionSource, entry: PolicyMatch, level: Level | None, outcome: Outcome
) -> None:
    assert outcome_of(Verdict(Answer.PASS, by, [entry], [level]), entry, level) is outcome


def test_a_refusal_names_the_policies_that_refused_in_their_order() -> None:
    verdict = refused(
        (applied("wide"), HAS),
        (applied("narrow"), LACKS),
        (applied("trial", shadow=True), LACKS),
        (applied("blocked", blocked=True), None),
    )
    assert tuple(verdict.refusing) == ("narrow", "blocked")


def test_a_refusal_by_the_only_policy_names_it() -> None:
    assert tuple(refused((applied("only"), LACKS)).refusing) == ("only",)


def test_what_passes_was_refused_by_nobody() -> None:
    passed = Verdict(Answer.PASS, DecisionSource.STORE, [applied(shadow=True), applied()], [LACKS, HAS])
    assert (
        tuple(passed.refusing)
        == tuple(UNLIMITED.refusing)
        == tuple(store_failed([applied()], "timeout").refusing)
        == ()
    )


# -- when to come back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "wait_us"),
    [
        ([(applied(), LACKS)], 750_000),
        ([(applied(cost=3), Level(1, 250_000, False))], 1_750_000),
        ([(applied(), LACKS), (applied(limit=SLOW), LACKS)], 59_750_000),
        ([(applied(limit=SLOW), HAS), (applied(), LACKS)], 750_000),
        ([(applied(limit=SLOW, shadow=True), LACKS), (applied(), LACKS)], 750_000),
        ([(applied(), None), (applied(), LACKS)], 750_000),
        ([(applied(), LACKS), (applied(blocked=True), None)], None),
        ([(applied(), LACKS), (applied(blocked=True, shadow=True), None)], 750_000),
    ],
)
def test_a_refusal_lasts_until_the_slowest_live_bucket_has_its_cost(
    entries: list[tuple[PolicyMatch, Level | None]], wait_us: int | None
) -> None:
    assert refused(*entries).retry_us == wait_us
    assert refused(*entries[::-1]).retry_us == wait_us


# -- a store that cannot decide ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "answer"),
    [
        ([applied()], Answer.UNAVAILABLE),
        ([applied(on_store_failure=ALLOW)], Answer.PASS),
        ([applied(on_store_failure=ALLOW), applied()], Answer.UNAVAILABLE),
        ([applied(shadow=True)], Answer.PASS),
        ([applied(shadow=True), applied(on_store_failure=ALLOW)], Answer.PASS),
        ([applied(shadow=True), applied()], Answer.UNAVAILABLE),
    ],
)
def test_the_strictest_live_policy_says_what_an_outage_means(entries: list[PolicyMatch], answer: Answer) -> None:
    verdict = store_failed(entries, "timeout")
    assert (verdict.answer, verdict.decided_by, verdict.reason) == (answer, DecisionSource.STORE_FAILURE, "timeout")
    assert list(verdict.levels) == [None] * len(entries)
    assert list(verdict.applied) == entries


@pytest.mark.parametrize(
    ("entries", "locally"),
    [
        ([applied(on_store_failure=LOCAL)], True),
        ([applied(on_store_failure=LOCAL), applied(on_store_failure=ALLOW)], True),
        ([applied(on_store_failure=LOCAL), applied(shadow=True)], True),
        ([applied(on_store_failure=LOCAL), applied()], False),
        ([applied(on_store_failure=ALLOW)], False),
        ([applied()], False),
    ],
)
def test_this_proxys_share_decides_unless_a_policy_denies(entries: list[PolicyMatch], locally: bool) -> None:
    assert decided_locally(entries) is decided_locally(entries[::-1]) is locally


def test_a_refusal_by_this_proxys_share_names_its_policy() -> None:
    opening, shared = applied("open", on_store_failure=ALLOW), applied("shared", on_store_failure=LOCAL)
    assert refused((opening, None), (shared, LACKS), by=DecisionSource.LOCAL).refusing == ("shared",)


def test_what_no_policy_concerns_passes() -> None:
    assert UNLIMITED.answer is Answer.PASS
    assert UNLIMITED.decided_by is DecisionSource.NO_POLICY
    assert not UNLIMITED.applied
