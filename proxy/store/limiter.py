"""The outage story on one page: how a request's policies become a verdict, whatever the store does.

    blocked key       refused at once, by the configuration
    deny cache        refused at once, where a bucket surely still lacks tokens
    the store         one script call for all requests of this turn of the event loop
    no good answer    each policy's `on_store_failure`: deny → 503, allow → pass; the strictest of them wins

No good answer means: not connected (known at once), no reply within `store.timeout`, an error reply, a reply that the
script cannot have given, or more undecided requests than MOST_UNDECIDED. A charge whose fate is unknown is never sent
again: it may have cost the caller a token, and never gives one.

A caller that leaves while its batch is in flight disturbs nobody: its callback is called as any other and finds that
there is no one to answer.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from proxy.decision.bucket import Charge, Level
from proxy.decision.policy import Applied
from proxy.decision.record import ObserveStore, StoreCall
from proxy.decision.verdict import UNLIMITED, Answer, DecidedBy, Verdict, store_failed
from proxy.store.batch import LARGEST_BATCH, BadReply, Batch
from proxy.store.connection import ReplyError, StoreUnavailable
from proxy.store.deny_cache import DenyCache
from proxy.store.redis_store import RedisStore

# More requests than this waiting for the store at once are not asked about: memory stays bounded whatever arrives.
MOST_UNDECIDED = 16_384

logger = logging.getLogger(__name__)


class _Waiter(NamedTuple):
    applied: Sequence[Applied]
    then: Callable[[Verdict], None]


class Limiter:
    """Decides requests through the store. `decide` fulfils the promise of `decision.verdict.Decide`."""

    def __init__(self, store: RedisStore, deny_cache: DenyCache, observe: ObserveStore | None = None) -> None:
        self._store = store
        self._deny_cache = deny_cache
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._batch: Batch[_Waiter] = Batch()
        self._undecided = 0

    @property
    def undecided(self) -> int:
        """Requests whose verdict the store has not given yet."""
        return self._undecided

    def decide(self, applied: Sequence[Applied], then: Callable[[Verdict], None]) -> None:
        """Charge the request on all its buckets or on none, and call `then` with the verdict."""
        if not applied:
            then(UNLIMITED)
            return
        known = self._known(applied)
        if known is not None:
            then(known)
            return
        self._ask(applied, [entry.charge for entry in applied if entry.charge is not None], then)

    def look(self, applied: Sequence[Applied], then: Callable[[Verdict], None]) -> None:
        """The same question at no cost: buckets stay as they are."""
        free = [entry._replace(charge=entry.charge._replace(cost=0)) if entry.charge else entry for entry in applied]
        charges = [entry.charge for entry in free if entry.charge is not None]
        if charges:
            self._ask(free, charges, then)
        else:
            then(Verdict(Answer.PASS, DecidedBy.OVERRIDE, free, (None,) * len(free)))

    def _known(self, applied: Sequence[Applied]) -> Verdict | None:
        """The verdict where it needs no question: a blocked key, or a bucket that surely lacks tokens."""
        cache = self._deny_cache
        levels: list[Level | None] | None = None
        for position, (policy, charge) in enumerate(applied):
            if policy.shadow:
                continue
            if charge is None:
                return Verdict(Answer.REFUSE, DecidedBy.OVERRIDE, applied, (None,) * len(applied))
            if charge.key in cache and (level := cache.lacking(charge, time.monotonic())) is not None:
                levels = levels or [None] * len(applied)
                levels[position] = level
        return None if levels is None else Verdict(Answer.REFUSE, DecidedBy.DENY_CACHE, applied, levels)

    def _ask(self, applied: Sequence[Applied], charges: Sequence[Charge], then: Callable[[Verdict], None]) -> None:
        if not charges:  # shadows of blocked keys only: nothing to ask
            then(Verdict(Answer.PASS, DecidedBy.OVERRIDE, applied, (None,) * len(applied)))
            return
        if self._undecided >= MOST_UNDECIDED:
            then(store_failed(applied, "overloaded"))
            return
        self._undecided += 1
        waiting = self._batch.add(charges, _Waiter(applied, then))
        if waiting == 1:
            self._loop.call_soon(self._flush)
        elif waiting == LARGEST_BATCH:
            self._flush()

    def _flush(self) -> None:
        batch, self._batch = self._batch, Batch()
        if not len(batch):
            return  # it was full, and has been sent
        asked_s = time.monotonic()
        self._store.run(batch, lambda reply: self._deliver(batch, reply, asked_s))

    def _deliver(self, batch: Batch[_Waiter], reply: object, asked_s: float) -> None:
        self._undecided -= len(batch)
        failure = _failure(reply)
        if self._observe is not None:
            self._observe(StoreCall(len(batch), time.monotonic() - asked_s, failure or ""))
        if failure is not None:
            _fail_all(batch, failure)
            return
        try:
            pairs = batch.deliver(reply)
        except BadReply:
            _fail_all(batch, "protocol")
            raise  # ends the connection: nothing else it says can be trusted
        for waiter, levels in pairs:
            _call(waiter, self._verdict(waiter.applied, levels, asked_s))

    def _verdict(self, applied: Sequence[Applied], levels: Sequence[Level | None], asked_s: float) -> Verdict:
        known: list[Level | None] = []
        answer, following = Answer.PASS, iter(levels)
        for policy, charge in applied:
            if charge is None:
                known.append(None)
                continue
            level = next(following)
            known.append(level)
            if level is None:
                if not policy.shadow:
                    return store_failed(applied, "unreadable_bucket")
                continue
            if not level.enough and not policy.shadow:
                answer = Answer.REFUSE
            if level.tokens < charge.cost:
                self._deny_cache.remember(charge, level, asked_s)
        return Verdict(answer, DecidedBy.STORE, applied, known)


def _failure(reply: object) -> str | None:
    """Why the store did not decide, as one word; None where it did."""
    if isinstance(reply, StoreUnavailable):
        return reply.reason
    if isinstance(reply, ReplyError):
        return str(reply).partition(" ")[0].lower()
    return None


def _fail_all(batch: Batch[_Waiter], reason: str) -> None:
    for waiter in batch.waiters():
        _call(waiter, store_failed(waiter.applied, reason))


def _call(waiter: _Waiter, verdict: Verdict) -> None:
    try:
        waiter.then(verdict)
    except Exception:  # the boundary of one request: the others of its batch must get their answers
        logger.exception("a request failed after its decision")
