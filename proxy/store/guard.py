"""Stands between the limiter and the store: says whether the store may be asked, and probes one that may not.

The breaker decides; this shell keeps its timer, sends its probes and logs its changes. A probe is a write, as the
requests' own questions are: a store that is full or has become a replica still answers what only reads.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable

from proxy.decision.bucket import Charge, Limit, Rate
from proxy.store.breaker import Breaker, BreakerState
from proxy.store.seam import Levels, Store, StoreUnavailable

# Failures that say nothing of the store: data errors of single keys, and what this proxy brought on itself.
NOT_THE_STORES = frozenset({"wrongtype", "crossslot", "closed"})

# A bucket of one token that is gone a minute later. In a Cluster its many names lie with all nodes in turn.
_PROBE = Limit(Rate(1, 1_000_000), 1, 1, 60_000)
_PROBE_NAMES = 64

logger = logging.getLogger(__name__)


class Guard:
    """One store's breaker at work. `on_closed` is called when the store may be asked again."""

    def __init__(self, store: Store, key_prefix: str, on_closed: Callable[[], None]) -> None:
        self._store = store
        self._prefix = f"{key_prefix}probe-"  # no bucket's name: those have a colon behind the policy
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._breaker = Breaker()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def state(self) -> BreakerState:
        """For metrics and health."""
        return self._breaker.state

    @property
    def reason(self) -> str:
        """Why the store was last given up, as one word."""
        return self._breaker.reason

    @property
    def closed(self) -> bool:
        """Whether the store may be asked."""
        return self._breaker.closed

    def answered(self) -> None:
        """The store answered a question."""
        self._breaker.answered()

    def failed(self, failure: StoreUnavailable, asked_s: float) -> None:
        """The store failed a question that was sent at `asked_s`."""
        if failure.reason in NOT_THE_STORES:
            return
        if self._breaker.failed(failure.reason, asked_s, time.monotonic()):
            self._log_open(failure)
            self._later(self._breaker.pause_s())

    def connected(self) -> None:
        """A connection was made: an open breaker need not wait for the end of its pause."""
        if self.state is BreakerState.OPEN:
            self._later(0)

    def _later(self, pause_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(pause_s, self._probe)

    def _probe(self) -> None:
        self._timer = None
        if self._breaker.probe():
            key = f"{self._prefix}{random.randrange(_PROBE_NAMES)}"
            self._store.ask((Charge(key, _PROBE, 1, debit=True),), self._probed)

    def _probed(self, answer: Levels | StoreUnavailable, _: float) -> None:
        if isinstance(answer, StoreUnavailable):
            self._breaker.probe_failed(answer.reason)
            self._later(self._breaker.pause_s())
            return
        open_s = self._breaker.probe_answered(time.monotonic())
        logger.info("store_breaker_closed", extra={"fields": {"open_s": round(open_s, 3)}})
        self._on_closed()

    def _log_open(self, failure: StoreUnavailable) -> None:
        logger.warning("store_breaker_open", extra={"fields": {"reason": failure.reason, "detail": str(failure)}})
