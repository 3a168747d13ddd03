"""Charges to the shared buckets what was admitted locally, once the store answers again.

In portions, one after the other, so that a long outage's debts are no burst of load. As with every charge, one whose
fate is unknown is not sent again: it may have been paid.
"""

from functools import partial

from proxy.decision.bucket import Charge
from proxy.store.local_store import LocalStore
from proxy.store.seam import Levels, Store, StoreUnavailable

# One script call's worth.
PORTION = 256

# After these nobody knows whether the charge was made; all other failures are known to have charged nothing.
FATE_UNKNOWN = frozenset({"timeout", "connection_lost", "protocol", "closed"})


class Settlement:
    """Pays the debts of one local store."""

    def __init__(self, store: Store, local: LocalStore) -> None:
        self._store = store
        self._local = local
        self._under_way = 0
        self._failed = False

    def begin(self) -> None:
        """Pay what is owed, unless that is being done already."""
        if self._under_way:
            return
        debts = self._local.debts(PORTION)
        self._under_way, self._failed = len(debts), False
        for debt in debts:
            self._store.ask((debt,), partial(self._paid, debt))

    def _paid(self, debt: Charge, answer: Levels | StoreUnavailable, _: float) -> None:
        self._under_way -= 1
        if isinstance(answer, StoreUnavailable):
            self._failed = True
            if answer.reason not in FATE_UNKNOWN:
                self._local.owe_again((debt,))
        if not self._under_way and self._local.owes and not self._failed:
            self.begin()
