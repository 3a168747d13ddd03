"""The shared store where it is a Cluster: one connection to each master, questions grouped by slot.

A script may only touch keys of one slot, so the questions of one turn of the event loop are one call a slot; the calls
to one node leave in one write. Buckets of one request that lie in several slots are reserved (see reservation.py).

The map of slots is learnt from any node and corrected by what nodes answer: MOVED changes it and has it learnt anew,
ASK sends one call on. Either says that nothing ran, so the call is sent on under its first deadline. A node that is
lost fails the questions of its slots at once, and the map is learnt anew until every slot has a connected node. One
that hangs or answers errors is left alone by a breaker of its own (see member.py), and the others go on.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files

from sidegate.config import StoreSettings
from sidegate.config.store_url import Address
from sidegate.decision.bucket import Charge, Level
from sidegate.decision.record import ObserveStore
from sidegate.store.awaiting import answer_of
from sidegate.store.cluster.cluster_node import Member
from sidegate.store.cluster.reservation import Reservation
from sidegate.store.cluster.slot_batch import SlotBatch
from sidegate.store.cluster.slots import SLOTS, BadSlots, SlotRange, by_slot, read_redirect, read_slots, slot_of
from sidegate.store.protocol import Breakers, Command, OnLevels, OnReply, StoreUnavailable
from sidegate.store.redis.batch import LARGEST_BATCH
from sidegate.store.redis.connection import ReplyError
from sidegate.store.redis.connector import Dialer
from sidegate.store.redis.node import OnChange

GIVE_BACK = files(__package__).joinpath("give_back.lua").read_text("utf-8")

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
        self._on_closed: Callable[[], None] = _nothing
        self._loop = asyncio.get_running_loop()
        self._slots: list[Member | None] = [None] * SLOTS
        self._members: dict[Address, Member] = {}
        self._turn: dict[int, SlotBatch] = {}
        self._doubt = asyncio.Event()
        self._told: StoreUnavailable | None = StoreUnavailable("starting", "not connected yet")
        self.tried = asyncio.Event()
        self.timeout_s = dialer.timeout_s
        self.observe = observe

    @property
    def failure(self) -> StoreUnavailable | None:
        """Why no node can be asked; None while one can."""
        if any(member.node.failure is None for member in self._members.values()):
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
                    await asyncio.gather(*(member.node.tried.wait() for member in self._owners()))
                    if any(member.node.failure for member in self._owners()):
                        self._doubt.set()
                self.tried.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LEARN_EVERY_S):
                        await self._doubt.wait()
                await asyncio.sleep(IN_DOUBT_EVERY_S * random.uniform(0.5, 1))
        finally:
            members = list(self._members.values())
            for member in members:
                member.stop()
            await asyncio.gather(*(member.task for member in members), return_exceptions=True)

    def use(self, settings: StoreSettings) -> None:
        """Go over to connections opened with these credentials, losing no question."""
        if self._dialer.use(settings):
            for member in self._members.values():
                member.node.renew()

    def own_breakers(self, on_closed: Callable[[], None]) -> Breakers:
        """Those of the nodes that have slots."""
        self._on_closed = on_closed
        return lambda: {str(member.address): member.guard.breaker for member in self._owners()}

    def ask(self, charges: Sequence[Charge], then: OnLevels) -> None:
        """Charge all buckets or none, slot by slot, together with what else is asked of a slot in this turn."""
        if len(charges) == 1:
            self._add(slot_of(charges[0].key), charges, then)
            return
        positions = by_slot(charges)
        if len(positions) == 1:
            self._add(next(iter(positions)), charges, then)
            return
        for slot, where in positions.items():
            # Nothing need be taken in one slot, and given back, while it is known of another that it will not answer.
            if not all(charges[position].shadow for position in where) and isinstance(
                refusal := self.serving(slot), StoreUnavailable
            ):
                then(refusal, time.monotonic())
                return
        batches: dict[int, SlotBatch] = {}
        reservation = Reservation(charges, positions, then, partial(self._give_back, batches))
        for slot, part, heard in reservation.parts():
            batches[slot] = self._add(slot, part, heard, reserving=True)

    def command(self, key: str, command: Command, on_reply: OnReply) -> None:
        """Send one command to the node that has the key; to the right one, where another has it by now."""
        slot = slot_of(key)
        member = self._slots[slot]
        if member is None:
            on_reply(self._unserved(slot))
            return
        node = member.node

        def check(reply: object) -> None:
            redirect = read_redirect(str(reply), node.address) if isinstance(reply, ReplyError) else None
            if redirect is None:
                on_reply(reply)
                return
            other = self.member_at(redirect.address).node
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

        def collect(member: Member, reply: object) -> None:
            replies.append(_naming(member, reply) if isinstance(reply, StoreUnavailable) else reply)
            if len(replies) == len(owners):
                on_reply(next((each for each in replies if each != b"PONG"), b"PONG"))

        for member in owners:
            member.node.ask(("PING",), partial(collect, member))

    # -- what is asked in this turn -----------------------------------------------------------------------------------

    def _add(self, slot: int, charges: Sequence[Charge], then: OnLevels, *, reserving: bool = False) -> SlotBatch:
        if not self._turn:
            self._loop.call_soon(self._flush)
        batch = self._turn.get(slot)
        if batch is None:
            batch = self._turn[slot] = SlotBatch(self, slot)
        batch.timed = batch.timed or reserving
        if batch.add(charges, then) == LARGEST_BATCH:
            self._turn[slot] = SlotBatch(self, slot)  # keeps the turn's flush, whatever else is asked
            batch.send()
        return batch

    def _flush(self) -> None:
        turn, self._turn = self._turn, {}
        for batch in turn.values():
            batch.send()

    def _give_back(
        self, batches: dict[int, SlotBatch], slot: int, charges: Sequence[Charge], left: Sequence[Level]
    ) -> None:
        call = batches[slot].call
        if call is None or call.before_us is None:
            return
        arguments: list[str | int] = [call.before_us]
        for (_, limit, cost, _, _), level in zip(charges, left, strict=True):
            arguments += [cost, limit.burst, f"{limit.rate.tokens}/{limit.rate.period_us}", level.tokens, level.age_us]
        words = (len(charges), *(charge.key for charge in charges), *arguments)
        if call.asking:
            call.node.ask(("ASKING",), _ignore)
        # The whole script each time: a question more, for having it again, would let others in between.
        call.node.ask(("EVAL", GIVE_BACK, *words), _ignore)

    # -- which node has what ------------------------------------------------------------------------------------------

    def serving(self, slot: int) -> Member | StoreUnavailable:
        """Who has a slot, or why it is not to be asked about."""
        member = self._slots[slot]
        return self._unserved(slot) if member is None else member.refusal or member

    def member_at(self, address: Address) -> Member:
        """The node at an address; kept connected from now on."""
        member = self._members.get(address)
        if member is None:
            member = self._members[address] = Member(self._dialer, address, self._member_changed, self._closed)
        member.used_s = self._loop.time()
        return member

    def moved(self, slot: int, member: Member) -> None:
        """A node said that another one has a slot."""
        self._slots[slot] = member
        self._doubt.set()

    def doubt(self) -> None:
        """Learn the map of slots anew."""
        self._doubt.set()

    async def _learn(self) -> list[SlotRange]:
        """The map of slots, from the first node that tells it. Raises StoreUnavailable."""
        connected = [member for member in self._members.values() if member.node.failure is None]
        random.shuffle(connected)
        # One that is left alone may still know; it is asked where no other is there.
        connected.sort(key=lambda member: not member.guard.closed)
        failure = StoreUnavailable("connect", "no node of the Cluster answers")
        for member in connected:
            try:
                return await self._slots_of(member.node.ask, member.address)
            except StoreUnavailable as error:
                failure = error
        for address in self._dialer.settings.url.addresses:
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
        slots: list[Member | None] = [None] * SLOTS
        for first, last, master in ranges:
            slots[first : last + 1] = [self.member_at(master)] * (last + 1 - first)
        self._slots = slots
        # A node without slots may still be sent to: one that is being filled, one that is being emptied.
        idle_since_s = self._loop.time() - KEPT_IDLE_S
        for address, member in list(self._members.items()):
            if member.used_s < idle_since_s:
                del self._members[address]
                member.stop()
        self._tell_members()

    def _owners(self) -> list[Member]:
        return list(dict.fromkeys(member for member in self._slots if member is not None))

    def _unserved(self, slot: int) -> StoreUnavailable:
        return self.failure or StoreUnavailable("clusterdown", f"no node serves slot {slot}")

    def _member_changed(self, member: Member, failure: StoreUnavailable | None) -> None:
        if failure is not None:
            self._doubt.set()
            self._tell(_naming(member, failure))
        else:
            self._tell_members()

    def _closed(self) -> None:
        self._on_closed()

    def _tell_members(self) -> None:
        owners = self._owners()
        if owners and all(member.node.failure is None for member in owners):
            self._tell(None)

    def _tell(self, failure: StoreUnavailable | None) -> None:
        before, self._told = self._told, failure
        if (before is None) != (failure is None) or (before and failure and str(before) != str(failure)):
            self._on_change(failure)


def _naming(member: Member, failure: StoreUnavailable) -> StoreUnavailable:
    return StoreUnavailable(failure.reason, f"{member.address}: {failure}")


def _nothing() -> None:
    """Who works no breakers of ours need not hear that one closed."""


def _ignore(reply: object) -> None:
    """Whatever it is: what may have run is never sent again."""
