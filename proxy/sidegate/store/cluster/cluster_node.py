"""One node of a Cluster: its connection and its breaker.

While the breaker of a node is open, the other nodes go on. The breaker counts calls, each once however many requests it
decides; error replies about a slot or about the Cluster do not count.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial

from sidegate.config.store_url import Address
from sidegate.decision.record import StoreCall
from sidegate.store.probe import BreakerProbe, probe_charge
from sidegate.store.protocol import Levels, OnLevels, StoreUnavailable
from sidegate.store.redis.batch import Batch
from sidegate.store.redis.connector import Connector
from sidegate.store.redis.node import Node
from sidegate.store.redis.script import ScriptCall

# Error replies of a healthy node: the slot is elsewhere, in migration, or not served.
OF_THE_SLOT = ("MOVED ", "ASK ", "TRYAGAIN ", "CLUSTERDOWN Hash slot")

OnNodeChange = Callable[["ClusterNode", StoreUnavailable | None], None]


class ClusterNode:
    """Connects at once and stays connected until `stop`. `on_change` and `on_closed`: see Node and BreakerProbe."""

    def __init__(
        self, connector: Connector, address: Address, on_change: OnNodeChange, on_closed: Callable[[], None]
    ) -> None:
        self.address = address
        self._connector = connector
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        dial = partial(connector.open_at, address, any_role=True)  # a replica redirects what it cannot do
        self.node = Node(dial, self._changed, address=address)
        self.guard = BreakerProbe(lambda: self.node.failure, self._probe, on_closed, str(address))
        # The key of the last failed call: probes go to the same slot.
        self._key = ""
        # Time of the last use, on the loop's clock.
        self.used_s = self._loop.time()
        self.task = self._loop.create_task(self.node.keep_connected())

    @property
    def refusal(self) -> StoreUnavailable | None:
        """Why calls are refused: its breaker is open; else None."""
        if self.guard.closed:
            return None
        return StoreUnavailable("breaker_open", f"the breaker of {self.address} is open: {self.guard.reason}")

    def stop(self) -> None:
        """Disconnect for good."""
        self.guard.stop()
        self.task.cancel()

    def record(self, call: StoreCall, error: str, key: str) -> None:
        """Record the end of a call that touched the bucket `key`; `error` is its last error reply, if any."""
        if not call.failure:
            self.guard.answered()
        elif call.failure != "starting" and not error.startswith(OF_THE_SLOT):
            self._key = key
            failure = StoreUnavailable(call.failure, error or str(self.node.failure or call.failure))
            self.guard.failed(failure, time.monotonic() - call.took_s)

    def _changed(self, failure: StoreUnavailable | None) -> None:
        if failure is None:
            self.guard.connected()
        self._on_change(self, failure)

    def _probe(self, then: OnLevels) -> None:
        def answered(answer: Levels | StoreUnavailable, asked_s: float) -> None:
            # The node may have lost the slot; any answer shows that it works.
            at_work = isinstance(answer, StoreUnavailable) and str(answer).startswith(OF_THE_SLOT)
            then((None,) if at_work else answer, asked_s)

        batch: Batch[OnLevels] = Batch()
        # The part in braces gives the probe the slot of the bucket, whose name has no braces.
        batch.add((probe_charge(f"{self._connector.settings.key_prefix}probe-{{{self._key}}}"),), answered)
        ScriptCall(batch, self.node, self._connector.timeout_s, _not_redirected, None).send()


def _not_redirected(call: ScriptCall, error: str) -> bool:  # noqa: ARG001
    return False
