"""Decides requests with unreadable buckets: their keys hold other data, written by another client of the store.

The script has charged nothing by then. The failure modes of these buckets decide first; where they let the request
pass, a second call charges the buckets that can be read. Such a request waits for the store up to twice its timeout.
"""

import time
from collections.abc import Callable, Sequence

from sidegate.decision.bucket import Charge
from sidegate.decision.policy import PolicyMatch
from sidegate.decision.verdict import Answer, DecisionSource, Verdict
from sidegate.store.failure_mode import FailureDecider, per_policy, with_levels
from sidegate.store.protocol import Levels, PartlyUnavailable, Store, StoreUnavailable

# A bucket that cannot be read is away though the store answers: so much time counts as an outage at each request.
LONGEST_UNREADABLE_S = 1.0

_UNREADABLE = StoreUnavailable("unreadable_bucket")


class UnreadableBuckets:
    """Decides such requests. `undecided` counts those that wait for their second call."""

    def __init__(self, store: Store, failure_mode: FailureDecider) -> None:
        self._store = store
        self._failure_mode = failure_mode
        self.undecided = 0

    def decide(self, applied: Sequence[PolicyMatch], levels: Levels, then: Callable[[Verdict], None]) -> None:
        """Decide a request of which nothing is charged and no bucket refuses. Levels of unreadable ones are None."""
        since_s = time.monotonic() - LONGEST_UNREADABLE_S
        readable = [
            entry.charge
            for entry, level in zip(applied, per_policy(applied, levels), strict=True)
            if entry.charge is not None and level is not None
        ]
        if not readable:
            then(self._failure_mode.decide(applied, _UNREADABLE.reason, since_s))
            return
        by_modes = self._failure_mode.decide_missing(applied, levels, _UNREADABLE.reason, since_s)
        if by_modes.answer is not Answer.PASS:
            then(by_modes)
            return

        def charged(answer: Levels | StoreUnavailable, asked_s: float) -> None:
            self.undecided -= 1
            then(self._verdict(applied, by_modes, _merged(levels, readable, answer), asked_s))

        self.undecided += 1
        self._store.ask(readable, charged)

    def _verdict(
        self, applied: Sequence[PolicyMatch], by_modes: Verdict, levels: Levels | StoreUnavailable, asked_s: float
    ) -> Verdict:
        """The verdict after the second call."""
        if isinstance(levels, StoreUnavailable):
            if isinstance(levels, PartlyUnavailable):
                levels.give_back()
            self._failure_mode.withdraw(by_modes)
            return self._failure_mode.decide(applied, levels.reason, asked_s)
        known = per_policy(applied, levels)
        if any(
            level is not None and not level.enough and not policy.shadow
            for (policy, _), level in zip(applied, known, strict=True)
        ):
            self._failure_mode.withdraw(by_modes)
            return Verdict(Answer.REFUSE, DecisionSource.STORE, applied, known)
        return self._failure_mode.admit(with_levels(by_modes, levels))


def _merged(before: Levels, readable: Sequence[Charge], answer: Levels | StoreUnavailable) -> Levels | StoreUnavailable:
    """The answer to the second call with None for the buckets that the first one could not read.

    A failure where the second one could not read a further bucket, so that nothing is charged.
    """
    if isinstance(answer, StoreUnavailable):
        return answer
    if any(level is None and charge.may_refuse for charge, level in zip(readable, answer, strict=True)):
        return _UNREADABLE
    following = iter(answer)
    return [None if level is None else next(following) for level in before]
