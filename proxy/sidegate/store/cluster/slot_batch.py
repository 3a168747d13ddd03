"""The calls for one slot in one turn: usually one; several while the slot moves between nodes."""

import time
from collections.abc import Sequence
from typing import Protocol

from sidegate.config.store_url import Address
from sidegate.decision.bucket import Charge
from sidegate.decision.record import ObserveStore, StoreCall
from sidegate.store.cluster.cluster_node import ClusterNode
from sidegate.store.cluster.slots import read_redirect
from sidegate.store.protocol import OnLevels, StoreUnavailable
from sidegate.store.redis.batch import Batch
from sidegate.store.redis.script import ScriptCall, fail

# Bounds the redirections of one call, for nodes that disagree.
MOST_HOPS = 5
# The pause between two tries of a call with several buckets of a slot that is in migration.
TRY_AGAIN_S = 0.005


class SlotRouter(Protocol):
    """The part of a Cluster store that a batch uses."""

    timeout_s: float
    observe: ObserveStore | None

    def serving(self, slot: int) -> ClusterNode | StoreUnavailable:
        """The node that serves a slot, or why there is none."""

    def member_at(self, address: Address) -> ClusterNode:
        """The node at an address; it stays connected."""

    def moved(self, slot: int, member: ClusterNode) -> None:
        """Record that a slot has moved to another node."""

    def doubt(self) -> None:
        """Reload the map of slots."""


class SlotBatch:
    """The requests of one slot; sent once. `call` is then the call whose charges can be given back."""

    def __init__(self, cluster: SlotRouter, slot: int) -> None:
        self._cluster = cluster
        self._slot = slot
        self._batch: Batch[OnLevels] = Batch()
        self._requests: list[tuple[Sequence[Charge], OnLevels]] = []
        self._member: ClusterNode | None = None
        self._error = ""
        self.call: ScriptCall | None = None

    def has_room(self, charges: Sequence[Charge]) -> bool:
        """Whether the request belongs into this call."""
        return self._batch.has_room(charges)

    def add(self, charges: Sequence[Charge], then: OnLevels) -> None:
        """Add one request."""
        self._requests.append((charges, then))
        self._batch.add(charges, then)

    def make_returnable(self) -> None:
        """Keep what is needed to give the charges back."""
        self._batch.returnable = True

    def send(self) -> None:
        """Send all requests that were added."""
        if not self._requests:
            return
        member = self._cluster.serving(self._slot)
        if isinstance(member, StoreUnavailable):
            fail(self._batch, member, time.monotonic())
            return
        self._member = member
        self.call = ScriptCall(self._batch, member.node, self._cluster.timeout_s, self._redirect, self._observed)
        self.call.send()

    def _observed(self, call: StoreCall) -> None:
        if self._member is not None:
            self._member.record(call, self._error, self._requests[0][0][0].key)
        if self._cluster.observe is not None:
            self._cluster.observe(call)

    def _redirect(self, call: ScriptCall, text: str) -> bool:
        cluster = self._cluster
        self._error = text
        redirect = read_redirect(text, call.node.address)
        if redirect is not None and call.hops < MOST_HOPS:
            member = cluster.member_at(redirect.address)
            if not redirect.asking:
                cluster.moved(redirect.slot, member)
            if (refusal := member.refusal) is not None:
                call.finish(refusal)
                return True
            self._member, self._error = member, ""
            call.send_on(member.node, asking=redirect.asking)
            return True
        if text.startswith("TRYAGAIN"):
            self._try_again(call)
            return True
        cluster.doubt()  # CLUSTERDOWN and the like
        return False

    def _try_again(self, call: ScriptCall) -> None:
        """The buckets of a slot in migration are on two nodes: send each request alone; most have one bucket."""
        if len(self._requests) == 1:
            call.send_again_in(TRY_AGAIN_S)
            return
        self.call = None  # charges of separate calls cannot be given back
        for charges, then in self._requests:
            alone = SlotBatch(self._cluster, self._slot)
            alone.add(charges, then)
            alone.call = call.send_part(alone._batch, alone._redirect)
