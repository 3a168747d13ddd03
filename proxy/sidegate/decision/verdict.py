"""The rate-limit decision for one request, over all matching policies."""

from collections.abc import Callable, Sequence
from enum import Enum, StrEnum
from functools import partial
from typing import NamedTuple

from sidegate.decision.bucket import ChargeKind, Level
from sidegate.decision.policy import OnStoreFailure, PolicyMatch
from sidegate.decision.settling import Admission


class Answer(Enum):
    """The action of the edge: forward, answer 429, answer 503."""

    PASS = "pass"  # noqa: S105  (a verdict, not a password)
    REFUSE = "refuse"
    UNAVAILABLE = "unavailable"


class DecisionSource(StrEnum):
    """The place that made the decision."""

    NO_POLICY = "no_policy"
    STORE = "store"
    DENY_CACHE = "deny_cache"
    OVERRIDE = "override"
    STORE_FAILURE = "store_failure"
    LOCAL = "local"


class Outcome(StrEnum):
    """The outcome of one policy for one request; the values are metric labels."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    SHADOW_REFUSED = "shadow_refused"
    STORE_DENIED = "store_denied"
    STORE_ALLOWED = "store_allowed"
    LOCAL_ALLOWED = "local_allowed"
    LOCAL_REFUSED = "local_refused"


class Verdict(NamedTuple):
    """The decision over all policies that applied.

    `levels` has one entry for each of `applied`; None where the bucket's state is unknown: its key is blocked, its
    store failed, or another bucket refused before it was read. `reason` is why the store could not decide. With
    `LOCAL`, `applied` holds this proxy's shares and `levels` their buckets. `admission`: what the request holds in the
    store, to be ended by its edge; None where it holds nothing. `away`: those of `applied` whose buckets gave no valid
    answer while others did; their failure modes decided them, and the store the others.
    """

    answer: Answer
    decided_by: DecisionSource
    applied: Sequence[PolicyMatch] = ()
    levels: Sequence[Level | None] = ()
    reason: str = ""
    admission: Admission | None = None
    away: Sequence[PolicyMatch] = ()

    @property
    def passed_unchecked(self) -> bool:
        """Whether the request passes although a policy could not be checked, by its mode `allow`."""
        if self.answer is not Answer.PASS:
            return False
        return self.decided_by is DecisionSource.STORE_FAILURE or (
            bool(self.away)
            and any(policy.on_store_failure is OnStoreFailure.ALLOW and not policy.shadow for policy, _ in self.away)
        )

    @property
    def refusing(self) -> tuple[str, ...]:
        """Names of the policies that refused, in the order of the configuration."""
        if len(self.applied) == 1 and self.answer is Answer.REFUSE:
            return (self.applied[0].policy.name,)
        return tuple(
            [
                applied.policy.name
                for applied, level in zip(self.applied, self.levels, strict=True)
                if outcome_of(self, applied, level) in REFUSALS
            ]
        )

    @property
    def retry_us(self) -> int | None:
        """Microseconds until the request would pass; None where it never will (a blocked key)."""
        if len(self.applied) == 1 and not self.applied[0].policy.shadow:
            charge, level = self.applied[0].charge, self.levels[0]
            if charge is None:
                return None
            return charge.retry_us(level) if level is not None else 0
        longest_us = 0
        for (policy, charge), level in zip(self.applied, self.levels, strict=True):
            if policy.shadow:
                continue
            if charge is None:
                return None
            if level is not None and level.tokens < charge.cost:
                longest_us = max(longest_us, charge.retry_us(level))
        return longest_us

    @property
    def wait_us(self) -> int:
        """Microseconds that an admitted request waits for the tokens that it has booked ahead."""
        return max(
            (
                charge.limit.wait_us(-level.tokens, level.age_us)
                for (policy, charge), level in zip(self.applied, self.levels, strict=True)
                if charge is not None and charge.kind is ChargeKind.BOOK and level is not None and not policy.shadow
            ),
            default=0,
        )


# Makes one of a tuple of all its members: a third of what naming them costs, for those that are made for each request.
judged = partial(tuple.__new__, Verdict)

REFUSALS = frozenset({Outcome.REFUSED, Outcome.LOCAL_REFUSED})

# Decides; calls back exactly once, at once or in a later turn, and never raises.
Decide = Callable[[Sequence[PolicyMatch], Callable[[Verdict], None]], None]

UNLIMITED = Verdict(Answer.PASS, DecisionSource.NO_POLICY)


def outcome_of(verdict: Verdict, applied: PolicyMatch, level: Level | None) -> Outcome:
    """The outcome of one of the verdict's policies.

    A policy with enough tokens is `allowed`, even if another one refused the request.
    """
    source = verdict.decided_by
    if verdict.away:
        is_away = any(entry is applied for entry in verdict.away)
        source = DecisionSource.STORE if not is_away else DecisionSource.LOCAL
    if source is DecisionSource.STORE_FAILURE:
        return Outcome.STORE_DENIED if denies(applied) else Outcome.STORE_ALLOWED
    if source is DecisionSource.LOCAL:
        return _local_outcome(applied, level)
    if applied.charge is None or (level is not None and not level.enough):
        return Outcome.SHADOW_REFUSED if applied.policy.shadow else Outcome.REFUSED
    return Outcome.ALLOWED


def decided_locally(applied: Sequence[PolicyMatch]) -> bool:
    """Whether this proxy's shares decide when the store cannot: a policy is `local`, and none denies."""
    return not any(map(denies, applied)) and any(
        entry.policy.on_store_failure is OnStoreFailure.LOCAL for entry in applied
    )


def store_failed(applied: Sequence[PolicyMatch], reason: str) -> Verdict:
    """The verdict when neither the store nor a share decides: `deny` takes precedence over `allow`."""
    answer = Answer.UNAVAILABLE if any(map(denies, applied)) else Answer.PASS
    return Verdict(answer, DecisionSource.STORE_FAILURE, applied, (None,) * len(applied), reason)


def denies(applied: PolicyMatch) -> bool:
    """Whether a request is answered 503 while the policy's bucket does not answer."""
    return applied.policy.on_store_failure is OnStoreFailure.DENY and not applied.policy.shadow


def _local_outcome(applied: PolicyMatch, level: Level | None) -> Outcome:
    if level is None and applied.charge is not None:
        return Outcome.STORE_ALLOWED
    if level is None or not level.enough:
        return Outcome.SHADOW_REFUSED if applied.policy.shadow else Outcome.LOCAL_REFUSED
    return Outcome.LOCAL_ALLOWED
