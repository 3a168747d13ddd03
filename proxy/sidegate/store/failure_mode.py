"""Decides what the store does not: each policy by its `on_store_failure`.

    deny    503: one policy that denies denies the request
    local   this proxy's share of the limit decides; every `local` policy must find its tokens, all or none
    allow   pass

Of a Cluster, some nodes may answer while others do not. Then the mode of a policy counts only where its own bucket does
not answer: the other buckets have passed by then, and get back what was charged if a mode refuses.
"""

import time
from collections.abc import Callable, Sequence

from sidegate.decision.bucket import Level
from sidegate.decision.policy import PolicyMatch
from sidegate.decision.verdict import Answer, DecisionSource, Verdict, decided_locally, denies, store_failed
from sidegate.store.admissions import Admissions
from sidegate.store.local_store import LocalStore, OutageClock
from sidegate.store.protocol import FATE_UNKNOWN, PartlyUnavailable


class FailureDecider:
    """The failure modes of one sidecar process. `proxies` returns how many proxies share each limit."""

    def __init__(self, local: LocalStore, admissions: Admissions, proxies: Callable[[], int]) -> None:
        self._local = local
        self._admissions = admissions
        self._proxies = proxies
        self._outages = OutageClock()

    @property
    def away(self) -> bool:
        """Whether an outage has begun and not ended."""
        return self._outages.away

    def note_return(self) -> None:
        """End the outage."""
        self._outages.answered()

    def decide(self, applied: Sequence[PolicyMatch], reason: str, asked_s: float | None = None) -> Verdict:
        """The verdict without the store, which has not decided since `asked_s` (None: at this moment)."""
        if decided_locally(applied):
            shares, levels, passes = self._share(applied, reason, asked_s)
            answer = Answer.PASS if passes else Answer.REFUSE
            verdict = Verdict(answer, DecisionSource.LOCAL, shares, levels, reason)
        else:
            verdict = store_failed(applied, reason)
        if verdict.answer is not Answer.PASS:
            self._abandon(applied, reason)
            return verdict
        everything = range(len(applied))
        return verdict._replace(admission=self._admissions.open(applied, verdict.levels, local=everything))

    def decide_part(self, applied: Sequence[PolicyMatch], found: PartlyUnavailable, asked_s: float) -> Verdict:
        """The verdict where some buckets have passed, and the modes of the others decide."""
        following = iter(found.levels)
        known = [None if charge is None else next(following) for _, charge in applied]
        away = [
            position
            for position, ((_, charge), level) in enumerate(zip(applied, known, strict=True))
            if charge is not None and level is None
        ]
        missing = [applied[position] for position in away]
        if any(map(denies, missing)):
            found.give_back()
            self._abandon(missing, found.reason)
            return store_failed(applied, found.reason)
        entries, levels, passes, source = list(applied), known, True, DecisionSource.STORE
        if decided_locally(missing):
            shares, local_levels, passes = self._share(missing, found.reason, asked_s)
            source = DecisionSource.LOCAL
            for position, share, level in zip(away, shares, local_levels, strict=True):
                entries[position], levels[position] = share, level
        aside = [entries[position] for position in away]
        if not passes:
            found.give_back()
            self._abandon(missing, found.reason)
            following = iter(found.levels)  # as they are now
            for position, (_, charge) in enumerate(applied):
                level = None if charge is None else next(following)
                levels[position] = levels[position] if position in away else level
            return Verdict(Answer.REFUSE, source, entries, levels, found.reason, None, aside)
        admission = self._admissions.open(applied, levels, local=away)
        return Verdict(Answer.PASS, source, entries, levels, found.reason, admission, aside)

    def _share(
        self, applied: Sequence[PolicyMatch], reason: str, asked_s: float | None
    ) -> tuple[list[PolicyMatch], list[Level | None], bool]:
        now_us = time.monotonic_ns() // 1000
        asked_us = now_us if asked_s is None else int(asked_s * 1e6)
        outage_us = self._outages.failed(asked_us, now_us, throughout=reason == "breaker_open")
        return self._local.decide(applied, self._proxies(), outage_us, self._admissions.places_of)

    def _abandon(self, applied: Sequence[PolicyMatch], reason: str) -> None:
        """Free what a call with a lost reply may have taken."""
        if reason in FATE_UNKNOWN:
            self._admissions.abandon(applied)
