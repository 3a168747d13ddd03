"""Stands before the store, or before each node of a Cluster: says whether it may be asked, and probes it where not.

The breaker decides; this shell keeps its timer, sends its probes and logs its changes. A probe is a write, as the
requests' own questions are: a store that is full or has become a replica still answers what only reads.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from sidegate.decision.bucket import Charge, Limit, Rate
from sidegate.store.breaker import LONGEST_PAUSE_S, Breaker, BreakerState
from sidegate.store.protocol import Levels, OnLevels, Store, StoreUnavailable

# Failures that say nothing of the store: data errors of single keys, and what this proxy brought on itself.
NOT_THE_STORES = frozenset({"wrongtype", "crossslot", "closed"})

# A bucket of one token that is gone a minute later.
_PROBE = Limit(Rate(1, 1_000_000), 1, 1, 60_000)

logger = logging.getLogger(__name__)


class Guard:
    """One breaker at work. `failure` says why nothing can be sent at present, `send` sends a probe, `on_closed` is
    called when questions may be asked again; `node` says in the log whose breaker it is, where it is one of several.
    """

    def __init__(
        self,
        failure: Callable[[], StoreUnavailable | None],
        send: Callable[[OnLevels], None],
        on_closed: Callable[[], None],
        node: str = "",
    ) -> None:
        self._failure = failure
        self._send = send
        self._on_closed = on_closed
        self._whose = {"node": node} if node else {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0  # when the next probe may be sent
        self.breaker = Breaker()

    @property
    def state(self) -> BreakerState:
        """For metrics and health."""
        return self.breaker.state

    @property
    def reason(self) -> str:
        """Why the store was last given up, as one word."""
        return self.breaker.reason

    @property
    def closed(self) -> bool:
        """Whether the store may be asked."""
        return self.breaker.closed

    def answered(self) -> None:
        """The store answered a question."""
        self.breaker.answered()

    def failed(self, failure: StoreUnavailable, asked_s: float) -> None:
        """The store failed a question that was sent at `asked_s`."""
        if failure.reason in NOT_THE_STORES:
            return
        if self.breaker.failed(failure.reason, asked_s, time.monotonic()):
            self._log_open(failure)
            self._pause()

    def connected(self) -> None:
        """A connection was made: a probe that is due need not wait any longer. One that is not keeps its pause.

        A store that accepts connections and then hangs would otherwise be probed, and reconnected to, without a pause.
        """
        if self.state is BreakerState.OPEN:
            self._later(max(0.0, self._due_s - time.monotonic()))

    def stop(self) -> None:
        """Send no more probes."""
        if self._timer is not None:
            self._timer.cancel()

    def _pause(self) -> None:
        pause_s = self.breaker.pause_s()
        self._due_s = time.monotonic() + pause_s
        self._later(pause_s)

    def _later(self, pause_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(pause_s, self._probe)

    def _probe(self) -> None:
        self._timer = None
        if self._failure() is not None:  # nothing can be sent; `connected` comes first
            self._later(LONGEST_PAUSE_S)
        elif self.breaker.probe():
            self._send(self._probed)

    def _probed(self, answer: Levels | StoreUnavailable, _: float) -> None:
        if isinstance(answer, StoreUnavailable):
            self.breaker.probe_failed(answer.reason)
            self._pause()
            return
        open_s = self.breaker.probe_answered(time.monotonic())
        logger.info("store_breaker_closed", extra={"fields": {**self._whose, "open_s": round(open_s, 3)}})
        self._on_closed()

    def _log_open(self, failure: StoreUnavailable) -> None:
        fields = {**self._whose, "reason": failure.reason, "detail": str(failure)}
        logger.warning("store_breaker_open", extra={"fields": fields})


def probe_charge(key: str) -> Charge:
    """What a probe charges, under a name that is no bucket's: those have a colon behind the policy."""
    return Charge(key, _PROBE, 1, debit=True)


def guard_before(store: Store, key_prefix: str, on_closed: Callable[[], None]) -> Guard:
    """One breaker before a whole store."""

    def send(then: OnLevels) -> None:
        store.ask((probe_charge(f"{key_prefix}probe"),), then)

    return Guard(lambda: store.failure, send, on_closed)
