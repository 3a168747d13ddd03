"""Decides requests: deny cache, breaker, store, and the failure mode when the store gives no valid answer.

    blocked key       refused at once, by the configuration
    deny cache        refused at once, while a bucket is known to lack tokens
    breaker open      no call: the failure mode at once; in a Cluster, for the slots of one node
    the store         one script call for all requests of this turn of the event loop
    failure mode      see failure_mode.py; for the buckets that do not answer or cannot be read, and the others decide
    afterwards        requests admitted locally are charged to the shared buckets, down to empty and not below

The failure mode applies when the store is not connected (known at once), sends no reply within `store.timeout`, sends
an error or a reply that the script cannot produce, when a bucket cannot be read, and beyond MOST_UNDECIDED undecided
requests. A charge with an unknown result is never sent again: it may cost the caller a token, and never gives one.

If a client leaves while its batch is in flight, its callback is called as usual and finds the connection closed.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from sidegate.decision.bucket import Charge, ChargeKind, Level
from sidegate.decision.policy import PolicyMatch
from sidegate.decision.verdict import UNLIMITED, Answer, DecisionSource, Verdict, denies, judged
from sidegate.store.admissions import Admissions
from sidegate.store.breaker import Breaker
from sidegate.store.deny_cache import DenyCache
from sidegate.store.failure_mode import FailureDecider
from sidegate.store.local_store import LocalStore
from sidegate.store.probe import breaker_for
from sidegate.store.protocol import Levels, PartlyUnavailable, Store, StoreUnavailable
from sidegate.store.settlement import Settlement
from sidegate.store.unreadable import UnreadableBuckets

# Bounds the requests that wait for the store at once, and with them the memory.
MOST_UNDECIDED = 16_384

_PASS, _REFUSE = Answer.PASS, Answer.REFUSE
_TAKE, _PLACE = ChargeKind.TAKE, ChargeKind.PLACE
_STORE, _DENY_CACHE = DecisionSource.STORE, DecisionSource.DENY_CACHE


class Limiter:
    """Decides requests through the store. `decide` implements `decision.verdict.Decide`.

    `proxies` returns how many proxies share each limit under `local`.
    """

    def __init__(self, store: Store, deny_cache: DenyCache, *, proxies: Callable[[], int] = lambda: 1) -> None:
        self._store = store
        self._deny_cache = deny_cache
        self.local = LocalStore()
        self._settlement = Settlement(store, self.local)
        self.admissions = Admissions(store, self.local, lambda: self._breaker.closed, deny_cache.forget)
        self._failure_mode = FailureDecider(self.local, self.admissions, proxies)
        self._unreadable = UnreadableBuckets(store, self._failure_mode)
        self.guard = breaker_for(store, self._breaker_closed)
        self._breaker = self.guard.breaker
        # A Cluster has a breaker for each node; then the one of `guard` stays closed.
        self._of_nodes = store.own_breakers(self._breaker_closed)
        self._undecided = 0

    @property
    def undecided(self) -> int:
        """Requests that wait for a verdict."""
        return self._undecided + self._unreadable.undecided

    @property
    def breakers(self) -> Mapping[str, Breaker]:
        """Breakers by node, for metrics and health; with one server, under the empty name."""
        return {"": self.guard.breaker} if self._of_nodes is None else self._of_nodes()

    def decide(self, applied: Sequence[PolicyMatch], then: Callable[[Verdict], None]) -> None:
        """Charge the request on all its buckets or on none, and call `then` with the verdict."""
        if not applied:
            then(UNLIMITED)
        elif len(applied) == 1 and (charge := applied[0].charge) is not None and not self._deny_cache.knows(charge.key):
            if charge.kind is _PLACE:
                self._ask_named(applied, then)
            else:
                self._ask(applied, (charge,), then)
        elif (known := self._known(applied)) is not None:
            then(known)
        else:
            self._ask_named(applied, then)

    def look(self, applied: Sequence[PolicyMatch], then: Callable[[Verdict], None]) -> None:
        """Read the levels without charging: buckets do not change."""
        free = [entry._replace(charge=entry.charge._replace(cost=0)) if entry.charge else entry for entry in applied]
        charges = [entry.charge for entry in free if entry.charge is not None]
        if charges:
            self._ask(free, charges, then)
        else:
            then(Verdict(Answer.PASS, DecisionSource.OVERRIDE, free, (None,) * len(free)))

    def _known(self, applied: Sequence[PolicyMatch]) -> Verdict | None:
        """The verdict that needs no call: a blocked key, or a bucket known to lack tokens."""
        cache = self._deny_cache
        if len(applied) == 1 and (charge := applied[0].charge) is not None:
            lacking = None if applied[0].policy.shadow else cache.lacking(charge, time.monotonic())
            return None if lacking is None else judged((_REFUSE, _DENY_CACHE, applied, (lacking,), "", None, ()))
        levels: list[Level | None] | None = None
        for position, (policy, charge) in enumerate(applied):
            if policy.shadow:
                continue
            if charge is None:
                return Verdict(Answer.REFUSE, DecisionSource.OVERRIDE, applied, (None,) * len(applied))
            if cache.knows(charge.key) and (level := cache.lacking(charge, time.monotonic())) is not None:
                levels = levels or [None] * len(applied)
                levels[position] = level
        return None if levels is None else judged((_REFUSE, _DENY_CACHE, applied, levels, "", None, ()))

    def _ask_named(self, applied: Sequence[PolicyMatch], then: Callable[[Verdict], None]) -> None:
        applied = self.admissions.named(applied)
        self._ask(applied, [entry.charge for entry in applied if entry.charge is not None], then)

    def _ask(self, applied: Sequence[PolicyMatch], charges: Sequence[Charge], then: Callable[[Verdict], None]) -> None:
        if not charges:  # only shadow policies with blocked keys
            then(Verdict(Answer.PASS, DecisionSource.OVERRIDE, applied, (None,) * len(applied)))
        elif not self._breaker.closed:
            then(self._failure_mode.decide(applied, "breaker_open"))
        elif self._undecided + self._unreadable.undecided >= MOST_UNDECIDED:
            then(self._failure_mode.decide(applied, "overloaded"))
        elif len(charges) > 1 and self._of_nodes is not None and (failure := self._known_away(applied)) is not None:
            then(self._failure_mode.decide(applied, failure.reason))  # and no other bucket is charged
        else:
            self._undecided += 1
            self._store.ask(charges, partial(self._decided, applied, then))

    def _decided(
        self,
        applied: Sequence[PolicyMatch],
        then: Callable[[Verdict], None],
        answer: Levels | StoreUnavailable,
        asked_s: float,
    ) -> None:
        self._undecided -= 1
        if isinstance(answer, PartlyUnavailable):
            then(self._failure_mode.decide_part(applied, answer, asked_s))
            return
        if isinstance(answer, StoreUnavailable):
            if self._of_nodes is None:
                self.guard.failed(answer, asked_s)
            then(self._failure_mode.decide(applied, answer.reason, asked_s))
            return
        self._breaker.answered()
        if self._failure_mode.away:
            self._note_return()
        if self.local.owes:
            self._settlement.begin()
        verdict = self._verdict(applied, answer, asked_s)
        if verdict is None:
            self._unreadable.decide(applied, answer, then)
        else:
            then(verdict)

    def _verdict(self, applied: Sequence[PolicyMatch], levels: Levels, asked_s: float) -> Verdict | None:
        """The verdict by the levels; None where a bucket cannot be read and no other one refuses."""
        if len(applied) == 1 and (level := levels[0]) is not None and level.enough:
            charge = applied[0].charge
            if charge is not None and level.tokens < charge.cost:
                self._deny_cache.remember(charge, level, asked_s)
            admission = None if charge is None or charge.kind is _TAKE else self.admissions.open(applied, levels)
            return judged((_PASS, _STORE, applied, levels, "", admission, ()))
        known: list[Level | None] = []
        answer, following, unreadable = _PASS, iter(levels), False
        for policy, charge in applied:
            if charge is None:
                known.append(None)
                continue
            level = next(following)
            known.append(level)
            if level is None:
                unreadable = unreadable or not policy.shadow
                continue
            if not level.enough and not policy.shadow:
                answer = Answer.REFUSE
            if level.tokens < charge.cost:
                self._deny_cache.remember(charge, level, asked_s)
        if unreadable and answer is _PASS:  # a refusal by one bucket stands without the others
            return None
        admission = self.admissions.open(applied, known) if answer is _PASS else None
        return Verdict(answer, DecisionSource.STORE, applied, known, "", admission)

    def connected(self) -> None:
        """Record a new connection to the store: what it is owed does not wait for the next request."""
        self.guard.connected()
        if self._breaker.closed:  # else once a probe is answered
            self._settlement.resume()
            self.admissions.resume()

    def _breaker_closed(self) -> None:
        self._note_return()
        self._settlement.resume()
        self.admissions.resume()

    def _note_return(self) -> None:
        """End the outage, unless another node of the Cluster is still away."""
        if all(breaker.closed for breaker in self.breakers.values()):
            self._failure_mode.note_return()

    def _known_away(self, applied: Sequence[PolicyMatch]) -> StoreUnavailable | None:
        """Why a bucket of a policy that denies without it cannot be called; None if all can: of several nodes, some may
        be away.
        """
        for entry in applied:
            if entry.charge is not None and denies(entry):
                failure = self._store.unserved(entry.charge.key)
                if failure is not None:
                    return failure
        return None
