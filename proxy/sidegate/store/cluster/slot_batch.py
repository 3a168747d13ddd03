"""What is asked of one slot in one turn: usually one call; several where the slot is moving between nodes."""

import time
from collections.abc import Sequence
from typing import Protocol

from sidegate.config.store_url import Address
from sidegate.decision.bucket import Charge
from sidegate.decision.record import ObserveStore, StoreCall
from sidegate.store.cluster.cluster_node import Member
from sidegate.store.cluster.slots import read_redirect
from sidegate.store.protocol import OnLevels, StoreUnavailable
from sidegate.store.redis.batch import Batch
from sidegate.store.redis.script import ScriptCall, fail

# A call sent on more often than this meets nodes that disagree.
MOST_HOPS = 5
# Between two tries of a call that touches two buckets of a slot under way from one node to another.
TRY_AGAIN_S = 0.005


class Cluster(Protocol):
    """What a batch must know of its Cluster, and tell it."""

    timeout_s: float
    observe: ObserveStore | None

    def serving(self, slot: int) -> Member | StoreUnavailable:
        """Who has a slot, or why it is not to be asked about."""

    def member_at(self, address: Address) -> Member:
        """The node at an address; kept connected from now on."""

    def moved(self, slot: int, member: Member) -> None:
        """A node said that another one has a slot."""

    def doubt(self) -> None:
        """Learn the map of slots anew."""


class SlotBatch:
    """Add to it, send it once; from then on `call` is what may be given back."""

    def __init__(self, cluster: Cluster, slot: int) -> None:
        self._cluster = cluster
        self._slot = slot
        self._batch: Batch[OnLevels] = Batch()
        self._requests: list[tuple[Sequence[Charge], OnLevels]] = []
        self._member: Member | None = None
        self._error = ""
        # Whether the node's clock is asked along with it, for what may have to be given back.
        self.timed = False
        self.call: ScriptCall | None = None

    def add(self, charges: Sequence[Charge], then: OnLevels) -> int:
        """Add one request; returns how many there are now."""
        self._requests.append((charges, then))
        return self._batch.add(charges, then)

    def send(self) -> None:
        """Ask for everything that was added."""
        if not self._requests:
            return
        member = self._cluster.serving(self._slot)
        if isinstance(member, StoreUnavailable):
            fail(self._batch, member, time.monotonic())
            return
        self._member = member
        self.call = ScriptCall(self._batch, member.node, self._cluster.timeout_s, self._redirect, self._heard)
        self.call.timed = self.timed
        self.call.send()

    def _heard(self, told: StoreCall) -> None:
        if self._member is not None:
            self._member.heard(told, self._error, self._requests[0][0][0].key)
        if self._cluster.observe is not None:
            self._cluster.observe(told)

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
        """Buckets of a slot under way are at two nodes: ask for each request alone, as most know one bucket only."""
        if len(self._requests) == 1:
            call.send_again_in(TRY_AGAIN_S)
            return
        self.call = None  # what is taken now cannot be given back
        for charges, then in self._requests:
            alone = SlotBatch(self._cluster, self._slot)
            alone.add(charges, then)
            alone.call = call.send_part(alone._batch, alone._redirect)
