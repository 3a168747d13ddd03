"""The shared store where it is a Cluster: one connection to each master, questions grouped by slot.

A script may only touch keys of one slot, so the questions of one turn of the event loop are one call a slot; the calls
to one node leave in one write. Buckets of one request that lie in several slots are reserved (see reservation.py).

The map of slots is learnt from any node and corrected by what nodes answer: MOVED changes it and has it learnt anew,
ASK sends one call on. Either says that nothing ran, so the call is sent on under its first deadline. A node that is
lost fails the questions of its slots at once, and the map is learnt anew until every slot has a connected node.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files

from proxy.config import StoreSettings
from proxy.config.store_url import Address
from proxy.decision.bucket import Charge
from proxy.decision.record import ObserveStore
from proxy.store.batch import LARGEST_BATCH, Batch
from proxy.store.connection import ReplyError
from proxy.store.dial import Dialer
from proxy.store.node import Node, OnChange
from proxy.store.reservation import Reservation
from proxy.store.script import Redirect, ScriptCall, fail
from proxy.store.seam import Command, OnLevels, OnReply, StoreUnavailable
from proxy.store.slots import SLOTS, BadSlots, SlotRange, by_slot, read_redirect, read_slots, slot_of

GIVE_BACK = files(__package__).joinpath("give_back.lua").read_text("utf-8")

# A call sent on more often than this meets nodes that disagree.
MOST_HOPS = 5
# Between two tries of a call that touches two buckets of a slot under way from one node to another.
TRY_AGAIN_S = 0.005
# The map of slots is learnt anew this often; while it is in doubt, at least and at most this often.
LEARN_EVERY_S = 15.0
IN_DOUBT_EVERY_S = 0.25
# A node that has no slots and was not sent to for so long is forgotten.
KEPT_IDLE_S = 60.0


class ClusterStore:
    """Fulfils `seam.Store`. `on_change` is told of every node that is lost, and None once all are connected."""

    def __init__(self, dialer: Dialer, on_change: OnChange, observe: ObserveStore | None = None) -> None:
        self._dialer = dialer
        self._on_change = on_change
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._slots: list[Node | None] = [None] * SLOTS
        self._nodes: dict[Address, Node] = {}
        self._used_s: dict[Address, float] = {}
        self._tasks: dict[Node, asyncio.Task[None]] = {}
        self._turn: dict[int, _SlotBatch] = {}
        self._doubt = asyncio.Event()
        self._told: StoreUnavailable | None = StoreUnavailable("starting", "not connected yet")
        self.tried = asyncio.Event()

    @property
    def failure(self) -> StoreUnavailable | None:
        """Why no node can be asked; None while one can."""
        if any(node.failure is None for node in self._nodes.values()):
            return None
        return self._told or StoreUnavailable("connect", "no node of the Cluster is connected")

    async def keep_connected(self) -> None:
        """Learn the map of slots and keep its nodes connected. Runs until cancelled."""
        try:
            while True:
                self._doubt.clear()
                try:
                    self._take_over(await self._learn())
                except StoreUnavailable as failure:
                    self._tell(failure)
                    self._doubt.set()
                else:
                    await asyncio.gather(*(node.tried.wait() for node in self._owners()))
                    if any(node.failure for node in self._owners()):
                        self._doubt.set()
                self.tried.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LEARN_EVERY_S):
                        await self._doubt.wait()
                await asyncio.sleep(IN_DOUBT_EVERY_S * random.uniform(0.5, 1))
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def use(self, settings: StoreSettings) -> None:
        """Go over to connections opened with these credentials, losing no question."""
        if self._dialer.use(settings):
            for node in self._nodes.values():
                node.renew()

    def ask(self, charges: Sequence[Charge], then: OnLevels) -> None:
        """Charge all buckets or none, slot by slot, together with what else is asked of a slot in this turn."""
        if len(charges) == 1:
            self._add(slot_of(charges[0].key), charges, then)
            return
        positions = by_slot(charges)
        if len(positions) == 1:
            self._add(next(iter(positions)), charges, then)
            return
        batches: dict[int, _SlotBatch] = {}
        reservation = Reservation(charges, positions, then, partial(self._give_back, batches))
        for slot, part, heard in reservation.parts():
            batches[slot] = self._add(slot, part, heard, reserving=True)

    def command(self, key: str, command: Command, on_reply: OnReply) -> None:
        """Send one command to the node that has the key; to the right one, where another has it by now."""
        slot = slot_of(key)
        node = self._slots[slot]
        if node is None:
            on_reply(self._unserved(slot))
            return

        def check(reply: object) -> None:
            redirect = read_redirect(str(reply), node.address) if isinstance(reply, ReplyError) else None
            if redirect is None:
                on_reply(reply)
                return
            other = self.node_at(redirect.address)
            if redirect.asking:
                other.ask(("ASKING",), _ignore)
            other.ask(command, on_reply)

        node.ask(command, check)

    def ping(self, on_reply: OnReply) -> None:
        """Ask every node for a sign of life; hear of one that gives none, or PONG."""
        owners = self._owners()
        if not owners:
            on_reply(self.failure or StoreUnavailable("clusterdown", "the Cluster serves no slots"))
            return
        replies: list[object] = []

        def collect(node: Node, reply: object) -> None:
            replies.append(_naming(node, reply) if isinstance(reply, StoreUnavailable) else reply)
            if len(replies) == len(owners):
                on_reply(next((each for each in replies if each != b"PONG"), b"PONG"))

        for node in owners:
            node.ask(("PING",), partial(collect, node))

    # -- what is asked in this turn -----------------------------------------------------------------------------------

    def _add(self, slot: int, charges: Sequence[Charge], then: OnLevels, *, reserving: bool = False) -> "_SlotBatch":
        if not self._turn:
            self._loop.call_soon(self._flush)
        batch = self._turn.get(slot)
        if batch is None:
            batch = self._turn[slot] = _SlotBatch(self, slot)
        batch.timed = batch.timed or reserving
        if batch.add(charges, then) == LARGEST_BATCH:
            self._turn[slot] = _SlotBatch(self, slot)  # keeps the turn's flush, whatever else is asked
            batch.send()
        return batch

    def _flush(self) -> None:
        turn, self._turn = self._turn, {}
        for batch in turn.values():
            batch.send()

    def send(self, slot: int, batch: Batch[OnLevels], redirect: Redirect, *, timed: bool) -> ScriptCall | None:
        """Ask for a batch of one slot; None where no node has the slot."""
        node = self._slots[slot]
        if node is None:
            fail(batch, self._unserved(slot), time.monotonic())
            return None
        call = ScriptCall(batch, node, self._dialer.timeout_s, redirect, self._observe)
        call.timed = timed
        call.send()
        return call

    def _give_back(self, batches: "dict[int, _SlotBatch]", slot: int, charges: Sequence[Charge]) -> None:
        call = batches[slot].call
        if call is None or call.before_us is None:
            return
        arguments: list[str | int] = [call.before_us]
        for _, limit, cost, _, _ in charges:
            arguments += [cost, limit.burst, f"{limit.rate.tokens}/{limit.rate.period_us}"]
        words = (len(charges), *(charge.key for charge in charges), *arguments)
        if call.asking:
            call.node.ask(("ASKING",), _ignore)
        # The whole script each time: a question more, for having it again, would let others in between.
        call.node.ask(("EVAL", GIVE_BACK, *words), _ignore)

    # -- which node has what ------------------------------------------------------------------------------------------

    def node_at(self, address: Address) -> Node:
        """The node at an address; kept connected from now on."""
        self._used_s[address] = self._loop.time()
        node = self._nodes.get(address)
        if node is None:
            dial = partial(self._dialer.open_at, address, any_role=True)  # a replica sends on what it may not do
            node = self._nodes[address] = Node(dial, partial(self._node_changed, address), address=address)
            self._tasks[node] = self._loop.create_task(node.keep_connected())
        return node

    def moved(self, slot: int, node: Node) -> None:
        """A node said that another one has a slot."""
        self._slots[slot] = node
        self._doubt.set()

    def doubt(self) -> None:
        """Learn the map of slots anew."""
        self._doubt.set()

    async def _learn(self) -> list[SlotRange]:
        """The map of slots, from the first node that tells it. Raises StoreUnavailable."""
        connected = [node for node in self._nodes.values() if node.failure is None]
        random.shuffle(connected)
        failure = StoreUnavailable("connect", "no node of the Cluster answers")
        for node in connected:
            try:
                return await self._slots_of(node.ask, node.address)
            except StoreUnavailable as error:
                failure = error
        for address in self._dialer.settings.address.addresses:
            try:
                connection = await self._dialer.open_at(address, any_role=True)
                try:
                    return await self._slots_of(connection.ask, address)
                finally:
                    connection.close()
            except StoreUnavailable as error:
                failure = error
        raise failure

    async def _slots_of(self, ask: Callable[[Command, OnReply], None], address: Address) -> list[SlotRange]:
        found: asyncio.Future[object] = self._loop.create_future()
        ask(("CLUSTER", "SLOTS"), lambda reply: None if found.done() else found.set_result(reply))
        reply = await found
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
        slots: list[Node | None] = [None] * SLOTS
        for first, last, master in ranges:
            slots[first : last + 1] = [self.node_at(master)] * (last + 1 - first)
        self._slots = slots
        # A node without slots may still be sent to: one that is being filled, one that is being emptied.
        idle_since_s = self._loop.time() - KEPT_IDLE_S
        for address, node in list(self._nodes.items()):
            if self._used_s[address] < idle_since_s:
                del self._nodes[address], self._used_s[address]
                self._tasks.pop(node).cancel()
        self._tell_nodes()

    def _owners(self) -> list[Node]:
        return list(dict.fromkeys(node for node in self._slots if node is not None))

    def _unserved(self, slot: int) -> StoreUnavailable:
        return self.failure or StoreUnavailable("clusterdown", f"no node serves slot {slot}")

    def _node_changed(self, address: Address, failure: StoreUnavailable | None) -> None:
        if failure is not None:
            self._doubt.set()
            self._tell(_naming(self._nodes[address], failure))
        else:
            self._tell_nodes()

    def _tell_nodes(self) -> None:
        owners = self._owners()
        if owners and all(node.failure is None for node in owners):
            self._tell(None)

    def _tell(self, failure: StoreUnavailable | None) -> None:
        before, self._told = self._told, failure
        if (before is None) != (failure is None) or (before and failure and str(before) != str(failure)):
            self._on_change(failure)


def _naming(node: Node, failure: StoreUnavailable) -> StoreUnavailable:
    return StoreUnavailable(failure.reason, f"{node.address}: {failure}")


def _ignore(reply: object) -> None:
    """Whatever it is: what may have run is never sent again."""


class _SlotBatch:
    """What is asked of one slot in one turn: usually one call; several where the slot is moving between nodes."""

    def __init__(self, store: ClusterStore, slot: int) -> None:
        self._store = store
        self._slot = slot
        self._batch: Batch[OnLevels] = Batch()
        self._requests: list[tuple[Sequence[Charge], OnLevels]] = []
        self.timed = False
        self.call: ScriptCall | None = None

    def add(self, charges: Sequence[Charge], then: OnLevels) -> int:
        """Add one request; returns how many there are now."""
        self._requests.append((charges, then))
        return self._batch.add(charges, then)

    def send(self) -> None:
        """Ask for everything that was added."""
        if self._requests:
            self.call = self._store.send(self._slot, self._batch, self._redirect, timed=self.timed)

    def _redirect(self, call: ScriptCall, text: str) -> bool:
        store = self._store
        redirect = read_redirect(text, call.node.address)
        if redirect is not None and call.hops < MOST_HOPS:
            node = store.node_at(redirect.address)
            if not redirect.asking:
                store.moved(redirect.slot, node)
            call.send_on(node, asking=redirect.asking)
            return True
        if text.startswith("TRYAGAIN"):
            self._try_again(call)
            return True
        store.doubt()  # CLUSTERDOWN and the like
        return False

    def _try_again(self, call: ScriptCall) -> None:
        """Buckets of a slot under way are at two nodes: ask for each request alone, as most know one bucket only."""
        if len(self._requests) == 1:
            call.send_again_in(TRY_AGAIN_S)
            return
        self.call = None  # what is taken now cannot be given back
        for charges, then in self._requests:
            alone = _SlotBatch(self._store, self._slot)
            alone.add(charges, then)
            alone.call = call.send_part(alone._batch, alone._redirect)
