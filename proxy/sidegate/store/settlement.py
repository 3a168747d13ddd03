"""Charges local debts to the shared buckets once the store answers again.

Debts are sent in portions, one after the other, to spread the load after a long outage. What a bucket cannot pay at
once stays owed; what it has paid, the local share gets back. A debt with an unknown result is not sent again: it may
have been charged. After a portion that failed, as while one node of a Cluster is down, or of which no debt was paid in
full, the next one waits for PAUSE_S: answers would otherwise start it over and over.
"""

import time
from functools import partial

from sidegate.decision.bucket import Charge, ChargeKind
from sidegate.store.local_store import LocalStore
from sidegate.store.protocol import FATE_UNKNOWN, Levels, Store, StoreUnavailable

# Debts of one script call.
PORTION = 256

# The pause after a portion that failed; a breaker that closes ends it.
PAUSE_S = 1.0


class Settlement:
    """Pays the debts of one local store."""

    def __init__(self, store: Store, local: LocalStore) -> None:
        self._store = store
        self._local = local
        self._under_way = 0
        self._failed = False
        self._any_paid = False
        self._not_before_s = 0.0

    def resume(self) -> None:
        """Pay the debts without a pause, since a breaker has closed."""
        self._not_before_s = 0.0
        self.begin()

    def begin(self) -> None:
        """Pay the debts, unless a portion is under way or failed within PAUSE_S."""
        if self._under_way or time.monotonic() < self._not_before_s:
            return
        debts = self._local.debts(PORTION)
        self._under_way, self._failed, self._any_paid = len(debts), False, False
        for debt in debts:
            # A charge of 0 before it reads what the bucket has to pay with, in the same script call.
            self._store.ask((debt._replace(cost=0, shadow=True, kind=ChargeKind.TAKE), debt), partial(self._paid, debt))

    def _paid(self, debt: Charge, answer: Levels | StoreUnavailable, _: float) -> None:
        self._under_way -= 1
        if isinstance(answer, StoreUnavailable):
            self._failed = True
            if answer.reason not in FATE_UNKNOWN:
                self._local.owe_again((debt,))
        elif (before := answer[0]) is not None:
            paid = min(max(0, before.tokens), debt.cost)
            self._local.repay(debt.key, paid)
            if paid < debt.cost:
                self._local.owe_again((debt._replace(cost=debt.cost - paid),))
            else:
                self._any_paid = True
        if self._under_way or not self._local.owes:
            return
        if self._failed or not self._any_paid:
            self._not_before_s = time.monotonic() + PAUSE_S
        else:
            self.begin()
