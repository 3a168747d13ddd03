"""The nodes of a Cluster and the slots that they serve: loads the map, corrects it, keeps the nodes connected.

The map comes from any node and is corrected by replies: MOVED changes it and reloads it. While a node is lost, it is
reloaded until every slot has a connected node.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from functools import partial

from sidegate.config.store_url import Address
from sidegate.decision.record import ObserveStore
from sidegate.store.awaiting import answer_of
from sidegate.store.cluster.cluster_node import ClusterNode
from sidegate.store.cluster.slots import SLOTS, BadSlots, SlotRange, read_slots
from sidegate.store.protocol import Command, OnReply, StoreUnavailable
from sidegate.store.redis.connection import ReplyError
from sidegate.store.redis.connector import Connector
from sidegate.store.redis.node import OnChange

# How often the map of slots is reloaded; while it is in doubt, at least and at most this often.
RELOAD_EVERY_S = 15.0
IN_DOUBT_EVERY_S = 0.25
# A node without slots that was unused for so long is disconnected.
KEPT_IDLE_S = 60.0


class SlotMap:
    """Implements `slot_batch.SlotRouter`. `on_change` receives the failure of every lost node, and None once all are
    connected; `on_closed` is called whenever the breaker of a node closes.
    """

    def __init__(
        self,
        connector: Connector,
        on_change: OnChange,
        observe: ObserveStore | None,
    ) -> None:
        self._connector = connector
        self._on_change = on_change
        self.on_closed: Callable[[], None] = _nothing
        self._loop = asyncio.get_running_loop()
        self._slots: list[ClusterNode | None] = [None] * SLOTS
        self._nodes: dict[Address, ClusterNode] = {}
        self._doubt = asyncio.Event()
        self._reported: StoreUnavailable | None = StoreUnavailable("starting", "not connected yet")
        self.tried = asyncio.Event()
        self.timeout_s = connector.timeout_s
        self.observe = observe

    @property
    def failure(self) -> StoreUnavailable | None:
        """Why no node can be called; None while one can."""
        if any(member.node.failure is None for member in self._nodes.values()):
            return None
        return self._reported or StoreUnavailable("connect", "no node of the Cluster is connected")

    async def keep_connected(self) -> None:
        """Load the map of slots and keep its nodes connected. Runs until cancelled."""
        try:
            while True:
                self._doubt.clear()
                try:
                    self._take_over(await self._load_slots())
                except StoreUnavailable as failure:
                    self._report(failure)
                    self._doubt.set()
                else:
                    await asyncio.gather(*(member.node.tried.wait() for member in self.owners()))
                    if any(member.node.failure for member in self.owners()):
                        self._doubt.set()
                self.tried.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RELOAD_EVERY_S):
                        await self._doubt.wait()
                await asyncio.sleep(IN_DOUBT_EVERY_S * random.uniform(0.5, 1))
        finally:
            members = list(self._nodes.values())
            for member in members:
                member.stop()
            await asyncio.gather(*(member.task for member in members), return_exceptions=True)

    def renew(self) -> None:
        """Replace all connections, after a change of credentials."""
        for node in self._nodes.values():
            node.node.renew()

    def owners(self) -> list[ClusterNode]:
        """The nodes that serve slots."""
        return list(dict.fromkeys(member for member in self._slots if member is not None))

    def serving(self, slot: int) -> ClusterNode | StoreUnavailable:
        """The node that serves a slot, or why there is none."""
        member = self._slots[slot]
        return self._unserved(slot) if member is None else member.refusal or member

    def at(self, slot: int) -> ClusterNode | StoreUnavailable:
        """The node that serves a slot, also while its breaker is open, or why there is none."""
        return self._slots[slot] or self._unserved(slot)

    def member_at(self, address: Address) -> ClusterNode:
        """The node at an address; it stays connected."""
        member = self._nodes.get(address)
        if member is None:
            member = self._nodes[address] = ClusterNode(self._connector, address, self._member_changed, self._closed)
        member.used_s = self._loop.time()
        return member

    def moved(self, slot: int, member: ClusterNode) -> None:
        """Record that a slot has moved to another node."""
        self._slots[slot] = member
        self._doubt.set()

    def doubt(self) -> None:
        """Reload the map of slots."""
        self._doubt.set()

    async def _load_slots(self) -> list[SlotRange]:
        """The map of slots from the first node that answers. Raises StoreUnavailable."""
        connected = [member for member in self._nodes.values() if member.node.failure is None]
        random.shuffle(connected)
        # Nodes with an open breaker are queried last.
        connected.sort(key=lambda member: not member.guard.closed)
        failure = StoreUnavailable("connect", "no node of the Cluster answers")
        for member in connected:
            try:
                return await self._slots_of(member.node.ask, member.address)
            except StoreUnavailable as error:
                failure = error
        for address in self._connector.settings.url.addresses:
            try:
                connection = await self._connector.open_at(address, any_role=True)
                try:
                    return await self._slots_of(connection.ask, address)
                finally:
                    connection.close()
            except StoreUnavailable as error:
                failure = error
        raise failure

    async def _slots_of(self, ask: Callable[[Command, OnReply], None], address: Address) -> list[SlotRange]:
        reply = await answer_of(partial(ask, ("CLUSTER", "SLOTS")))
        if isinstance(reply, StoreUnavailable):
            raise reply
        try:
            if isinstance(reply, ReplyError):
                raise BadSlots(str(reply))
            ranges = read_slots(reply, address)
        except BadSlots as error:
            raise StoreUnavailable("no_slots", f"{address}: {error}") from error
        if not ranges:
            raise StoreUnavailable("clusterdown", f"{address} knows of no slots")
        return ranges

    def _take_over(self, ranges: Sequence[SlotRange]) -> None:
        slots: list[ClusterNode | None] = [None] * SLOTS
        for first, last, master in ranges:
            slots[first : last + 1] = [self.member_at(master)] * (last + 1 - first)
        self._slots = slots
        # A node without slots may still be used: during a migration to it or from it.
        idle_since_s = self._loop.time() - KEPT_IDLE_S
        for address, member in list(self._nodes.items()):
            if member.used_s < idle_since_s:
                del self._nodes[address]
                member.stop()
        self._report_nodes()

    def _unserved(self, slot: int) -> StoreUnavailable:
        return self.failure or StoreUnavailable("clusterdown", f"no node serves slot {slot}")

    def _member_changed(self, member: ClusterNode, failure: StoreUnavailable | None) -> None:
        if failure is not None:
            self._doubt.set()
            self._report(naming(member, failure))
        else:
            self._report_nodes()

    def _closed(self) -> None:
        self.on_closed()

    def _report_nodes(self) -> None:
        owners = self.owners()
        if owners and all(member.node.failure is None for member in owners):
            self._report(None)

    def _report(self, failure: StoreUnavailable | None) -> None:
        before, self._reported = self._reported, failure
        if (before is None) != (failure is None) or (before and failure and str(before) != str(failure)):
            self._on_change(failure)


def naming(member: ClusterNode, failure: StoreUnavailable) -> StoreUnavailable:
    """The failure with the address of its node."""
    return StoreUnavailable(failure.reason, f"{member.address}: {failure}")


def _nothing() -> None:
    """The callback until the store sets one."""
