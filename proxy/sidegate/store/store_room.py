"""The store for the rest of the sidecar: opens it, decides through it, describes and inspects it."""

import logging
import time
from collections.abc import Coroutine, Iterator, Sequence
from functools import partial
from typing import Any

from sidegate.config import StoreSettings
from sidegate.decision.policy import OnStoreFailure, PolicyMatch, PolicySet
from sidegate.decision.reading import Reading
from sidegate.decision.record import ObserveStore
from sidegate.decision.verdict import Verdict
from sidegate.store.awaiting import answer_of
from sidegate.store.deny_cache import DenyCache
from sidegate.store.factory import open_store
from sidegate.store.failure_advice import failure_advice
from sidegate.store.housekeeping import Housekeeping
from sidegate.store.limiter import Limiter
from sidegate.store.protocol import StoreUnavailable
from sidegate.store.redis.inspect import Buckets
from sidegate.store.replicas import Replicas

_LOCAL = OnStoreFailure.LOCAL
# A Sentinel's failure names every one that was tried.
LONGEST_FAULT_CHARS = 200
_UNKNOWN_SHARES = (
    "the store was never reached, so the proxies were not counted: each limit is divided by the workers of this "
    "sidecar alone, and all sidecars together admit more; set store.replicas"
)

logger = logging.getLogger("sidegate.store")


class StoreRoom:
    """The objects of one store. `workers` processes of this sidecar hold a local share each.

    `known_proxies` is the last count of another worker of this sidecar. `buckets` inspects what is stored.
    """

    def __init__(self, settings: StoreSettings, workers: int, observe: ObserveStore, *, known_proxies: int = 0) -> None:
        self._workers = workers
        self.store = open_store(settings, self._connection_changed, observe=observe)
        self._deny_cache = DenyCache()
        fixed = self._fixed_replicas(settings)
        self._replicas = Replicas(self.store, fixed, floor=workers, known=known_proxies)
        self.limiter = Limiter(self.store, self._deny_cache, proxies=lambda: self._replicas.count)
        self._housekeeping = Housekeeping(self.store, self._replicas, settings.warn_at_buckets)
        self.buckets = Buckets(settings)

    def tasks(self) -> Iterator[Coroutine[Any, Any, None]]:
        """What runs beside the requests, until cancelled."""
        yield self.store.keep_connected()
        yield self._housekeeping.run()
        yield self.limiter.admissions.run()

    def warn_of_local(self, before: PolicySet, after: PolicySet) -> None:
        """Log a warning before an edit that makes policies `local` while their shares are unknown."""
        was = {policy.name for policy in before.policies if policy.on_store_failure is _LOCAL}
        names = [each.name for each in after.policies if each.on_store_failure is _LOCAL and each.name not in was]
        if names and not (self._replicas.fixed or self._replicas.seen):
            fields = {"policies": names, "divided_by": self._replicas.count, "detail": _UNKNOWN_SHARES}
            logger.warning("local_share_unknown", extra={"fields": fields})

    def use(self, settings: StoreSettings) -> None:
        """Continue with the settings of an edited configuration."""
        if settings.key_prefix != self.store.key_prefix:
            self.limiter.local.clear()  # all buckets are new
        self.store.use(settings)
        self.buckets.use(settings)
        self._deny_cache.clear()
        self._replicas.fixed = self._fixed_replicas(settings)
        self._housekeeping.warn_at_buckets = settings.warn_at_buckets

    async def look(self, applied: Sequence[PolicyMatch]) -> Verdict:
        """The verdict at no cost: levels as they are, nothing charged."""
        return await answer_of(partial(self.limiter.look, applied))

    async def ping(self) -> str | None:
        """Send PING. Returns None if the store answers and every breaker is closed, else the reason as a sentence."""
        for node, breaker in self.limiter.breakers.items():
            if not breaker.closed:
                return f"the breaker{f' of {node}' if node else ''} is open: {breaker.reason}"
        reply = await answer_of(self.store.ping)
        return None if reply == b"PONG" else str(reply)

    def forget(self, bucket: str) -> bool:
        """Drop what is remembered of a bucket, and its local share. Returns whether there was a local share."""
        self._deny_cache.forget(bucket, time.monotonic())
        return self.limiter.local.forget(bucket)

    @property
    def proxies(self) -> int:
        """How many proxies share each limit, as counted by announcements; 0 before the first count."""
        return self._replicas.seen

    async def close(self) -> None:
        """Leave the count of proxies and close the connections for inspection; the store's own end with its task."""
        if self.store.failure is None:
            self.limiter.admissions.resume()
            await answer_of(self._replicas.leave if self._replicas.fixed is None else self.store.ping)
        await self.buckets.close()

    def describe(self) -> dict[str, object]:
        """`up` (connected), `reason` and `fault` (in words) of the connection's failure, `advice` (what to do), one
        entry per breaker, and `proxies`: how many share each limit under `local`, 0 if unknown.

        `node` is None where one breaker stands before the whole store.
        """
        failure = self.store.failure
        breakers = [
            {"node": node or None, "state": each.state.name.lower(), "reason": None if each.closed else each.reason}
            for node, each in self.limiter.breakers.items()
        ]
        proxies = self._replicas.fixed or self._replicas.seen
        reason, fault = (failure.reason, str(failure)[:LONGEST_FAULT_CHARS].rstrip(".")) if failure else (None, None)
        failing = reason or next((each["reason"] for each in breakers if each["reason"]), None)
        return {
            "up": failure is None,
            "reason": reason,
            "fault": fault,
            "breakers": breakers,
            "advice": failure_advice(failing) if failing else None,
            "proxies": proxies,
        }

    def readings(self) -> Iterator[Reading]:
        """Gauges of the store, its breakers and this proxy's local state."""
        limiter = self.limiter
        yield Reading("deny_cache_entries", "Buckets known to be empty.", lambda: len(self._deny_cache))
        yield Reading("store_undecided", "Requests that wait for the store.", lambda: limiter.undecided)
        yield Reading("store_up", "Whether the store is connected.", lambda: self.store.failure is None)
        yield Reading(
            "store_breaker_state",
            "Breaker before the store: 0 closed (requests go to the store), 1 open, 2 open while a probe is under way.",
            lambda: max((each.state.value for each in limiter.breakers.values()), default=0),
        )
        yield Reading(
            "store_node_breaker_state",
            "Breaker of each node of a Cluster: values as of sidegate_store_breaker_state.",
            lambda: {node: each.state.value for node, each in limiter.breakers.items() if node},
            label="node",
        )
        yield Reading("store_keys", "Keys in the store at the last count.", lambda: self._housekeeping.keys)
        yield Reading("store_proxies", "Proxies that share each limit under `local`.", lambda: self._replicas.count)
        yield from limiter.admissions.readings()
        yield Reading("local_buckets", "Buckets of this proxy's own share.", lambda: len(limiter.local))

    def _connection_changed(self, failure: StoreUnavailable | None) -> None:
        if failure is None:
            logger.info("store_connected")
            self.limiter.connected()
            self.limiter.admissions.renew()  # a store that was restarted has lost all places
            self._housekeeping.connected()
        else:
            logger.warning("store_unavailable", extra={"fields": {"reason": failure.reason, "detail": str(failure)}})

    def _fixed_replicas(self, settings: StoreSettings) -> int | None:
        return None if settings.replicas is None else settings.replicas * self._workers
