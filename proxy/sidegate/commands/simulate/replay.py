"""Applies one configuration to logged requests: matches policies, charges buckets in virtual time, counts results."""

from collections.abc import Collection, Sequence

from sidegate.commands.simulate.logged_request import LoggedRequest
from sidegate.commands.simulate.tally import Tally
from sidegate.commands.simulate.virtual_store import MOST_BUCKETS, VirtualStore
from sidegate.config.builtin_routes import is_builtin_route
from sidegate.decision.bad_request import BadRequest
from sidegate.decision.bucket import Charge, Level
from sidegate.decision.policy import PolicyMatch, PolicySet
from sidegate.decision.verdict import Answer, DecisionSource, Verdict

# The level of a bucket that counts requests under way: it has a place.
_FREE = Level(0, 0, enough=True)


class Replay:
    """Decides requests in virtual time and counts the results. `own_pages` are paths that the sidecar answers."""

    def __init__(self, policies: PolicySet, own_pages: Collection[str] = (), most_buckets: int = MOST_BUCKETS) -> None:
        self._policies = policies
        self._own_pages = own_pages
        self.store = VirtualStore(most_buckets)
        self.tally = Tally(policies)

    def take(self, request: LoggedRequest) -> Verdict | None:
        """Decide one request and count it; None if no policy applies, or for a bad request or a page of the sidecar."""
        facts, tally = request.facts, self.tally
        tally.requests_over_time.add(request.time_us)
        if is_builtin_route(facts, self._own_pages):
            tally.own_pages += 1
            return None
        try:
            applied = self._policies.applying(facts)
        except BadRequest as error:
            tally.count_ambiguous(str(error))
            return None
        if not applied:
            tally.unlimited += 1
            return None
        verdict = self._verdict(applied, request.time_us)
        if verdict.answer is Answer.PASS:
            self._settle(verdict, request.status)
        tally.count(verdict, request.time_us, request.status)
        return verdict

    def _verdict(self, applied: Sequence[PolicyMatch], now_us: int) -> Verdict:
        charges = [entry.charge for entry in applied if entry.charge is not None and not _counts_places(entry.charge)]
        if len(charges) < len(applied):
            return self._verdict_on_blocked(applied, charges, now_us)
        levels, passes = self.store.decide(charges, now_us)
        return Verdict(Answer.PASS if passes else Answer.REFUSE, DecisionSource.STORE, applied, levels)

    def _settle(self, verdict: Verdict, status: int) -> None:
        """Give back what the logged status does not keep. Without a status, and for costs that only the answer's fields
        or body state, the held cost stays charged.
        """
        for entry, level in zip(verdict.applied, verdict.levels, strict=True):
            rule = entry.policy.settle
            if rule is None or not rule.when or entry.charge is None or level is None or not level.enough:
                continue
            if status and not rule.by_status(status, entry.charge.cost):
                self.store.give_back(entry.charge)

    def _verdict_on_blocked(self, applied: Sequence[PolicyMatch], charges: Sequence[Charge], now_us: int) -> Verdict:
        """Decide as `store.limiter` does: a blocked key refuses and nothing is charged; if its policy is a shadow, the
        other buckets are charged as usual. A policy that counts requests under way always has a place: a log does not
        show which were under way at once.
        """
        refuses = any(entry.charge is None and not entry.policy.shadow for entry in applied)
        if refuses:
            return Verdict(Answer.REFUSE, DecisionSource.OVERRIDE, applied, (None,) * len(applied))
        levels, passes = self.store.decide(charges, now_us)
        following = iter(levels)
        known = [
            None if charge is None else _FREE if _counts_places(charge) else next(following) for _, charge in applied
        ]
        return Verdict(Answer.PASS if passes else Answer.REFUSE, DecisionSource.STORE, applied, known)

    def fields_not_in(self, logged: Collection[str]) -> list[str]:
        """Return the header fields (lower case, sorted) that decide a limit and never occur in the log."""
        return sorted(self._policies.fields - set(logged))


def _counts_places(charge: Charge) -> bool:
    return charge.limit.in_flight
