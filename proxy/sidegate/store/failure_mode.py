"""Decides requests without the store: each policy by its `on_store_failure`.

    deny    503: one policy that denies denies the request
    local   this proxy's share of the limit decides; every `local` policy must find its tokens, all or none
    allow   pass

Some buckets of a request may be decided while others are not: those of a Cluster's node that does not answer, or one
whose key holds something else. Then the mode of a policy counts only where its own bucket is missing. Of a Cluster, the
other buckets have passed by then, and get back what was charged if a mode refuses; beside a bucket that cannot be read
nothing is charged, so the modes decide first, and the other buckets are charged by a second call.
"""

import time
from collections.abc import Callable, Sequence

from sidegate.decision.bucket import Level
from sidegate.decision.policy import PolicyMatch
from sidegate.decision.verdict import Answer, DecisionSource, Verdict, decided_locally, denies, store_failed
from sidegate.store.admissions import Admissions
from sidegate.store.local_store import LocalStore, OutageClock
from sidegate.store.protocol import FATE_UNKNOWN, Levels, PartlyUnavailable


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
        """The verdict where some buckets have passed and are charged, and the modes of the others decide."""
        verdict = self.decide_missing(applied, found.levels, found.reason, asked_s)
        if verdict.answer is Answer.PASS:
            return self.admit(verdict)
        found.give_back()
        missing = [
            entry for entry, level in zip(applied, per_policy(applied, found.levels), strict=True) if level is None
        ]
        self._abandon(missing, found.reason)
        # The levels are as they are now.
        return with_levels(verdict, found.levels) if verdict.answer is Answer.REFUSE else verdict

    def decide_missing(
        self, applied: Sequence[PolicyMatch], levels: Levels, reason: str, asked_s: float | None
    ) -> Verdict:
        """The verdict of the failure modes of those buckets whose level is None, where the other ones pass.

        It admits nothing yet: see `admit` and `withdraw`.
        """
        known = per_policy(applied, levels)
        places = [
            place
            for place, ((_, charge), level) in enumerate(zip(applied, known, strict=True))
            if charge is not None and level is None
        ]
        missing = [applied[place] for place in places]
        if any(map(denies, missing)):
            return store_failed(applied, reason)
        entries, passes, source = list(applied), True, DecisionSource.STORE
        if decided_locally(missing):
            shares, local_levels, passes = self._share(missing, reason, asked_s)
            source = DecisionSource.LOCAL
            for place, share, level in zip(places, shares, local_levels, strict=True):
                entries[place], known[place] = share, level
        answer = Answer.PASS if passes else Answer.REFUSE
        return Verdict(answer, source, entries, known, reason, None, [entries[place] for place in places])

    def admit(self, verdict: Verdict) -> Verdict:
        """The verdict of a request that passes in part by the failure modes of missing buckets, with its admission."""
        return verdict._replace(
            admission=self._admissions.open(verdict.applied, verdict.levels, local=_places_away(verdict))
        )

    def withdraw(self, verdict: Verdict) -> None:
        """Give this proxy's shares back what the request took, since another bucket does not let it pass."""
        for place in _places_away(verdict):
            charge, level = verdict.applied[place].charge, verdict.levels[place]
            if charge is not None and level is not None:
                self._local.give_back(charge, level)

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


def with_levels(verdict: Verdict, levels: Levels) -> Verdict:
    """The verdict with other levels for the buckets that the store decides."""
    away = _places_away(verdict)
    known = per_policy(verdict.applied, levels)
    return verdict._replace(
        levels=[verdict.levels[place] if place in away else level for place, level in enumerate(known)]
    )


def per_policy(applied: Sequence[PolicyMatch], levels: Levels) -> list[Level | None]:
    """One level for each policy, from one for each charge."""
    following = iter(levels)
    return [None if charge is None else next(following) for _, charge in applied]


def _places_away(verdict: Verdict) -> list[int]:
    """The positions of the policies whose buckets did not answer."""
    return [place for place, entry in enumerate(verdict.applied) if any(entry is missing for missing in verdict.away)]
