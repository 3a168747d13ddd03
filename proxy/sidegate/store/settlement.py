"""Charges to the shared buckets what was admitted locally, once the store answers again.

In portions, one after the other, so that a long outage's debts are no burst of load. As with every charge, one whose
fate is unknown is not sent again: it may have been paid. Where a portion fails, as it does while one node of a Cluster
is away, the next one waits: answers of other nodes, which begin it, may be many.
"""

import time
from functools import partial

from sidegate.decision.bucket import Charge
from sidegate.store.local_store import LocalStore
from sidegate.store.protocol import Levels, Store, StoreUnavailable

# One script call's worth.
PORTION = 256

# After a portion that failed, unless a breaker closes.
PAUSE_S = 1.0

# After these nobody knows whether the charge was made; all other failures are known to have charged nothing.
FATE_UNKNOWN = frozenset({"timeout", "connection_lost", "protocol", "closed"})


class Settlement:
    """Pays the debts of one local store."""

    def __init__(self, store: Store, local: LocalStore) -> None:
        self._store = store
        self._local = local
        self._under_way = 0
        self._failed = False
        self._not_before_s = 0.0

    def resume(self) -> None:
        """A breaker has closed: pay what is owed without a pause."""
        self._not_before_s = 0.0
        self.begin()

    def begin(self) -> None:
        """Pay what is owed, unless that is being done already or failed just now."""
        if self._under_way or time.monotonic() < self._not_before_s:
            return
        debts = self._local.debts(PORTION)
        self._under_way, self._failed = len(debts), False
        for debt in debts:
            self._store.ask((debt,), partial(self._paid, debt))

    def _paid(self, debt: Charge, answer: Levels | StoreUnavailable, _: float) -> None:
        self._under_way -= 1
        if isinstance(answer, StoreUnavailable):
            self._failed = True
            self._not_before_s = time.monotonic() + PAUSE_S
            if answer.reason not in FATE_UNKNOWN:
                self._local.owe_again((debt,))
        if not self._under_way and self._local.owes and not self._failed:
            self.begin()
