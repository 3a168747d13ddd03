"""One node of a Cluster: the connection to it, and the breaker before it.

A node that fails is left alone while the others go on. Its breaker counts calls, each once however many requests it
decides, and nothing that says less of the node than of a slot or of the Cluster.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial

from sidegate.config.store_url import Address
from sidegate.decision.record import StoreCall
from sidegate.store.probe import Guard, probe_charge
from sidegate.store.protocol import Levels, OnLevels, StoreUnavailable
from sidegate.store.redis.batch import Batch
from sidegate.store.redis.connector import Dialer
from sidegate.store.redis.node import Node
from sidegate.store.redis.script import ScriptCall

# Error replies by which a node works, and says so: the slot is elsewhere, under way, or nobody's.
OF_THE_SLOT = ("MOVED ", "ASK ", "TRYAGAIN ", "CLUSTERDOWN Hash slot")

OnChange = Callable[["Member", StoreUnavailable | None], None]


class Member:
    """Kept connected from the start, until `stop`. `on_change` as a node's; `on_closed` as a guard's."""

    def __init__(self, dialer: Dialer, address: Address, on_change: OnChange, on_closed: Callable[[], None]) -> None:
        self.address = address
        self._dialer = dialer
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        dial = partial(dialer.open_at, address, any_role=True)  # a replica sends on what it may not do
        self.node = Node(dial, self._changed, address=address)
        self.guard = Guard(lambda: self.node.failure, self._probe, on_closed, str(address))
        # A bucket whose slot was asked of it in vain: the probe is of the same slot.
        self._key = ""
        # When it was last wanted, by the loop's clock.
        self.used_s = self._loop.time()
        self.task = self._loop.create_task(self.node.keep_connected())

    @property
    def refusal(self) -> StoreUnavailable | None:
        """Why it is left alone; None while it is not."""
        if self.guard.closed:
            return None
        return StoreUnavailable("breaker_open", f"the breaker of {self.address} is open: {self.guard.reason}")

    def stop(self) -> None:
        """Let it go."""
        self.guard.stop()
        self.task.cancel()

    def heard(self, call: StoreCall, error: str, key: str) -> None:
        """Note how a call ended that touched the bucket `key`; `error` is the last error reply to it, if any."""
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
        def heard(answer: Levels | StoreUnavailable, asked_s: float) -> None:
            # It need not have the slot any more: it answers, and that is all that was asked.
            at_work = isinstance(answer, StoreUnavailable) and str(answer).startswith(OF_THE_SLOT)
            then((None,) if at_work else answer, asked_s)

        batch: Batch[OnLevels] = Batch()
        # What stands in braces says which slot: that of the bucket, which has none in its name.
        batch.add((probe_charge(f"{self._dialer.settings.key_prefix}probe-{{{self._key}}}"),), heard)
        ScriptCall(batch, self.node, self._dialer.timeout_s, _sent_nowhere_else, None).send()


def _sent_nowhere_else(call: ScriptCall, error: str) -> bool:  # noqa: ARG001
    return False
