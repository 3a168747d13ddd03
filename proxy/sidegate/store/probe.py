"""Runs a breaker for the store, or for each node of a Cluster: timer, probes, log lines.

The breaker decides; this shell acts. A probe writes, as charges do: a store that is full, or has become a replica,
still answers reads.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from sidegate.decision.bucket import Charge, ChargeKind, Limit, Rate
from sidegate.store.breaker import LONGEST_PAUSE_S, Breaker, BreakerState
from sidegate.store.protocol import Levels, OnLevels, Store, StoreUnavailable

# Failures that are not the store's: data errors of single keys, connections that this proxy closed, and its own
# overload.
NOT_THE_STORES = frozenset({"wrongtype", "crossslot", "closed", "overloaded"})

# A bucket of one token that expires a minute later.
_PROBE = Limit(Rate(1, 1_000_000), 1, 1, 60_000)

logger = logging.getLogger(__name__)


class BreakerProbe:
    """One breaker with its timer. `failure` returns why nothing can be sent at present; `send` sends a probe;
    `on_closed` is called when the breaker closes; `node` names the node in log lines.
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
        """The reason of the last opening, as one word."""
        return self.breaker.reason

    @property
    def closed(self) -> bool:
        """Whether calls may be sent."""
        return self.breaker.closed

    def answered(self) -> None:
        """Record that the store answered a call."""
        self.breaker.answered()

    def failed(self, failure: StoreUnavailable, asked_s: float) -> None:
        """Record that a call sent at `asked_s` failed."""
        if failure.reason in NOT_THE_STORES:
            return
        if self.breaker.failed(failure.reason, asked_s, time.monotonic()):
            self._log_open(failure)
            self._pause()

    def connected(self) -> None:
        """Record a new connection: a probe that is due is sent at once, any other keeps its pause.

        Otherwise a store that accepts connections and then hangs would be probed without a pause.
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
        if self._failure() is not None:  # nothing can be sent before `connected` is called
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
    """The charge of a probe. Its key is no bucket's name: those have a colon behind the policy."""
    return Charge(key, _PROBE, 1, kind=ChargeKind.DEBIT)


def breaker_for(store: Store, on_closed: Callable[[], None]) -> BreakerProbe:
    """The breaker of a store that has one server."""

    def send(then: OnLevels) -> None:
        store.ask((probe_charge(f"{store.key_prefix}probe"),), then)

    return BreakerProbe(lambda: store.failure, send, on_closed)
