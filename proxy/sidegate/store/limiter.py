"""The outage story on one page: how a request's policies become a verdict, whatever the store does.

    blocked key       refused at once, by the configuration
    deny cache        refused at once, where a bucket surely still lacks tokens
    breaker open      no question: what follows under "no good answer", at once; in a Cluster for the slots of one node
    the store         one script call for all requests of this turn of the event loop
    no good answer    each policy's `on_store_failure`: deny → 503; local → this proxy's share of the limit decides;
                      allow → pass. One `deny` denies; then every `local` must find its tokens
    afterwards        what was admitted locally is charged to the shared buckets, down to empty and not below

No good answer means: not connected (known at once), no reply within `store.timeout`, an error reply, a reply that the
script cannot have given, a bucket that cannot be read, or more undecided requests than MOST_UNDECIDED. A charge whose
fate is unknown is never sent again: it may have cost the caller a token, and never gives one.

A caller that leaves while its batch is in flight disturbs nobody: its callback is called as any other and finds that
there is no one to answer.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from sidegate.decision.bucket import Charge, Level
from sidegate.decision.policy import PolicyMatch
from sidegate.decision.verdict import UNLIMITED, Answer, DecisionSource, Verdict, decided_locally, judged, store_failed
from sidegate.store.breaker import Breaker
from sidegate.store.deny_cache import DenyCache
from sidegate.store.local_store import LocalStore
from sidegate.store.probe import guard_before
from sidegate.store.protocol import Levels, Store, StoreUnavailable
from sidegate.store.settlement import Settlement

# More requests than this waiting for the store at once are not asked about: memory stays bounded whatever arrives.
MOST_UNDECIDED = 16_384

_PASS, _REFUSE = Answer.PASS, Answer.REFUSE
_STORE, _DENY_CACHE = DecisionSource.STORE, DecisionSource.DENY_CACHE


class Limiter:
    """Decides requests through the store. `decide` fulfils the promise of `decision.verdict.Decide`.

    `proxies` says how many share each limit where the store cannot; `key_prefix` is that of all keys in the store.
    """

    def __init__(
        self, store: Store, deny_cache: DenyCache, *, proxies: Callable[[], int] = lambda: 1, key_prefix: str = ""
    ) -> None:
        self._store = store
        self._deny_cache = deny_cache
        self._proxies = proxies
        self.local = LocalStore()
        self._settlement = Settlement(store, self.local)
        self.guard = guard_before(store, key_prefix, self._settlement.resume)
        # Where each node has a breaker of its own, ours is never told of a failure.
        self._of_nodes = store.own_breakers(self._settlement.resume)
        self._undecided = 0

    @property
    def undecided(self) -> int:
        """Requests whose verdict the store has not given yet."""
        return self._undecided

    @property
    def breakers(self) -> Mapping[str, Breaker]:
        """For metrics and health: by node, or under no name the one before the whole store."""
        return {"": self.guard.breaker} if self._of_nodes is None else self._of_nodes()

    def decide(self, applied: Sequence[PolicyMatch], then: Callable[[Verdict], None]) -> None:
        """Charge the request on all its buckets or on none, and call `then` with the verdict."""
        if not applied:
            then(UNLIMITED)
        elif len(applied) == 1 and (charge := applied[0].charge) is not None and not self._deny_cache.knows(charge.key):
            self._ask(applied, (charge,), then)
        elif (known := self._known(applied)) is not None:
            then(known)
        else:
            self._ask(applied, [entry.charge for entry in applied if entry.charge is not None], then)

    def look(self, applied: Sequence[PolicyMatch], then: Callable[[Verdict], None]) -> None:
        """The same question at no cost: buckets stay as they are."""
        free = [entry._replace(charge=entry.charge._replace(cost=0)) if entry.charge else entry for entry in applied]
        charges = [entry.charge for entry in free if entry.charge is not None]
        if charges:
            self._ask(free, charges, then)
        else:
            then(Verdict(Answer.PASS, DecisionSource.OVERRIDE, free, (None,) * len(free)))

    def _known(self, applied: Sequence[PolicyMatch]) -> Verdict | None:
        """The verdict where it needs no question: a blocked key, or a bucket that surely lacks tokens."""
        cache = self._deny_cache
        if len(applied) == 1 and (charge := applied[0].charge) is not None:
            lacking = None if applied[0].policy.shadow else cache.lacking(charge, time.monotonic())
            return None if lacking is None else judged((_REFUSE, _DENY_CACHE, applied, (lacking,), ""))
        levels: list[Level | None] | None = None
        for position, (policy, charge) in enumerate(applied):
            if policy.shadow:
                continue
            if charge is None:
                return Verdict(Answer.REFUSE, DecisionSource.OVERRIDE, applied, (None,) * len(applied))
            if cache.knows(charge.key) and (level := cache.lacking(charge, time.monotonic())) is not None:
                levels = levels or [None] * len(applied)
                levels[position] = level
        return None if levels is None else judged((_REFUSE, _DENY_CACHE, applied, levels, ""))

    def _ask(self, applied: Sequence[PolicyMatch], charges: Sequence[Charge], then: Callable[[Verdict], None]) -> None:
        if not charges:  # shadows of blocked keys only: nothing to ask
            then(Verdict(Answer.PASS, DecisionSource.OVERRIDE, applied, (None,) * len(applied)))
        elif not self.guard.closed:
            then(self._without_store(applied, "breaker_open"))
        elif self._undecided >= MOST_UNDECIDED:
            then(self._without_store(applied, "overloaded"))
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
        if isinstance(answer, StoreUnavailable):
            if self._of_nodes is None:
                self.guard.failed(answer, asked_s)
            then(self._without_store(applied, answer.reason))
            return
        self.guard.answered()
        if self.local.owes:
            self._settlement.begin()
        then(self._verdict(applied, answer, asked_s))

    def _verdict(self, applied: Sequence[PolicyMatch], levels: Sequence[Level | None], asked_s: float) -> Verdict:
        if len(applied) == 1 and (level := levels[0]) is not None and level.enough:
            charge = applied[0].charge
            if charge is not None and level.tokens < charge.cost:
                self._deny_cache.remember(charge, level, asked_s)
            return judged((_PASS, _STORE, applied, levels, ""))
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
        if unreadable and answer is Answer.PASS:  # what one bucket refuses needs no word of another
            return self._without_store(applied, "unreadable_bucket")
        return Verdict(answer, DecisionSource.STORE, applied, known)

    def _without_store(self, applied: Sequence[PolicyMatch], reason: str) -> Verdict:
        if not decided_locally(applied):
            return store_failed(applied, reason)
        shares, levels, passes = self.local.decide(applied, self._proxies(), time.monotonic_ns() // 1000)
        return Verdict(Answer.PASS if passes else Answer.REFUSE, DecisionSource.LOCAL, shares, levels, reason)
