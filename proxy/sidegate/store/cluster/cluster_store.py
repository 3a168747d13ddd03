"""The store on a Redis Cluster: one connection to each master, calls grouped by slot.

A script may only touch keys of one slot, so the requests of one turn of the event loop are one call for each slot; the
calls to one node leave in one write. Buckets of one request in several slots are reserved (see reservation.py).

The map of slots comes from any node and is corrected by replies: MOVED changes it and reloads it, ASK redirects one
call. Both mean that nothing ran, so the call is sent to the other node with its first deadline. While a node is lost,
the calls of its slots fail at once, and the map is reloaded until every slot has a connected node. A node that hangs or
replies with errors opens its own breaker (see cluster_node.py), and the others go on.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from sidegate.config import StoreSettings
from sidegate.decision.bucket import Charge, Level
from sidegate.decision.charging import undoing
from sidegate.decision.record import ObserveStore
from sidegate.store.cluster.cluster_node import ClusterNode
from sidegate.store.cluster.contention import Contention
from sidegate.store.cluster.give_back import GiveBack
from sidegate.store.cluster.reservation import Reservation
from sidegate.store.cluster.slot_batch import SlotBatch
from sidegate.store.cluster.slot_map import SlotMap, naming
from sidegate.store.cluster.slots import by_slot, read_redirect, slot_of
from sidegate.store.protocol import Breakers, Command, Levels, OnLevels, OnReplies, OnReply, StoreUnavailable
from sidegate.store.redis.connection import ReplyError
from sidegate.store.redis.connector import Connector
from sidegate.store.redis.node import OnChange

_TIMED_OUT = StoreUnavailable("timeout", "two calls, one after the other, were not answered within the timeout")


class ClusterStore:
    """Implements `protocol.Store`. `on_change` receives the failure of every lost node, and None once all are
    connected.
    """

    def __init__(self, connector: Connector, on_change: OnChange, observe: ObserveStore | None = None) -> None:
        self._connector = connector
        self._loop = asyncio.get_running_loop()
        self._turn: dict[int, SlotBatch] = {}
        self._contention = Contention()
        self._returns = GiveBack()
        self.slots = SlotMap(connector, on_change, observe)
        self.tried = self.slots.tried

    @property
    def key_prefix(self) -> str:
        return self._connector.settings.key_prefix

    @property
    def failure(self) -> StoreUnavailable | None:
        """Why no node can be called; None while one can."""
        return self.slots.failure

    async def keep_connected(self) -> None:
        """Load the map of slots and keep its nodes connected. Runs until cancelled."""
        await self.slots.keep_connected()

    def use(self, settings: StoreSettings) -> None:
        """Replace the connections where the credentials have changed, without losing a call."""
        if self._connector.use(settings):
            self.slots.renew()

    def own_breakers(self, on_closed: Callable[[], None]) -> Breakers:
        """The breakers of the nodes that serve slots."""
        self.slots.on_closed = on_closed
        return lambda: {str(member.address): member.guard.breaker for member in self.slots.owners()}

    def ask(self, charges: Sequence[Charge], then: OnLevels) -> None:
        """Charge all buckets or none, in one call for each slot with the other requests of this turn."""
        if len(charges) == 1:
            self._add(slot_of(charges[0].key), charges, then)
            return
        positions = by_slot(charges)
        if len(positions) == 1:
            self._add(next(iter(positions)), charges, then)
            return
        serving = {slot: self.slots.serving(slot) for slot in positions}
        failed = {slot: node for slot, node in serving.items() if isinstance(node, StoreUnavailable)}
        if len(failed) == len(positions):
            then(next(iter(failed.values())), time.monotonic())
            return
        batches: dict[int, SlotBatch] = {}
        reservation = Reservation(
            charges, positions, then, partial(self._reserve, batches), partial(self._give_back, batches)
        )
        first = self._contention.latest(charge.key for charge in charges if charge.cost and not charge.shadow)
        if first is None:
            reservation.begin(None, failed)
        else:
            # Each call has its own timeout; both together have one.
            timeout_s = self._connector.timeout_s
            self._loop.call_later(timeout_s / 2, reservation.hurry)
            self._expire_at(reservation, time.monotonic() + timeout_s)
            reservation.begin(slot_of(first), failed)

    def unserved(self, key: str) -> StoreUnavailable | None:
        """Why calls for this bucket fail at once; None while they can be made."""
        node = self.slots.serving(slot_of(key))
        return node if isinstance(node, StoreUnavailable) else None

    def command(self, key: str, command: Command, on_reply: OnReply) -> None:
        """Send one command to the node that has the key, following one redirection."""
        slot = slot_of(key)
        member = self.slots.at(slot)
        if isinstance(member, StoreUnavailable):
            on_reply(member)
            return
        node = member.node

        def check(reply: object) -> None:
            redirect = read_redirect(str(reply), node.address) if isinstance(reply, ReplyError) else None
            if redirect is None:
                on_reply(reply)
                return
            other = self.slots.member_at(redirect.address).node
            if redirect.asking:
                other.ask(("ASKING",), _ignore)
            other.ask(command, on_reply)

        node.ask(command, check)

    def command_each(self, command: Command, on_replies: OnReplies) -> None:
        """Send one command to every node that serves slots."""
        owners = self.slots.owners()
        replies: dict[str, object] = {}
        if not owners:
            on_replies(replies)

        def collect(member: ClusterNode, reply: object) -> None:
            replies[str(member.address)] = naming(member, reply) if isinstance(reply, StoreUnavailable) else reply
            if len(replies) == len(owners):
                on_replies(replies)

        for member in owners:
            member.node.ask(command, partial(collect, member))

    def ping(self, on_reply: OnReply) -> None:
        """Send PING to every node; `on_reply` receives the first failure, or b"PONG"."""

        def check(replies: Mapping[str, object]) -> None:
            if replies:
                on_reply(next((each for each in replies.values() if each != b"PONG"), b"PONG"))
            else:
                on_reply(self.failure or StoreUnavailable("clusterdown", "the Cluster serves no slots"))

        self.command_each(("PING",), check)

    # -- the calls of this turn ---------------------------------------------------------------------------------------

    def _expire_at(self, reservation: Reservation, due_s: float) -> None:
        """Expire the reservation at `due_s` of time.monotonic; timers of uvloop may end a millisecond early."""
        left_s = due_s - time.monotonic()
        if left_s > 0:
            self._loop.call_later(left_s, self._expire_at, reservation, due_s)
        else:
            # The reply may be unread in the socket because this process was late: read once more first.
            self._loop.call_later(0.001, reservation.expire, _TIMED_OUT)

    def _reserve(self, batches: dict[int, SlotBatch], slot: int, charges: Sequence[Charge], then: OnLevels) -> None:
        def answered(answer: Levels | StoreUnavailable, asked_s: float) -> None:
            if not isinstance(answer, StoreUnavailable):
                self._contention.note(charges, answer)
            then(answer, asked_s)

        batches[slot] = self._add(slot, charges, answered, returnable=True)

    def _add(self, slot: int, charges: Sequence[Charge], then: OnLevels, *, returnable: bool = False) -> SlotBatch:
        if not self._turn:
            self._loop.call_soon(self._flush)
        batch = self._turn.get(slot)
        if batch is None or not batch.has_room(charges):
            if batch is not None:
                batch.send()
            batch = self._turn[slot] = SlotBatch(self.slots, slot)
        if returnable:
            batch.make_returnable()
        batch.add(charges, then)
        return batch

    def _flush(self) -> None:
        turn, self._turn = self._turn, {}
        for batch in turn.values():
            batch.send()

    def _give_back(
        self, batches: dict[int, SlotBatch], slot: int, charges: Sequence[Charge], left: Sequence[Level]
    ) -> None:
        plain: list[tuple[Charge, Level]] = []
        for charge, level in zip(charges, left, strict=True):
            if (undo := undoing(charge, level)) is None:
                plain.append((charge, level))
            else:
                self._add(slot, (undo,), _ignore_levels)
        if plain and (call := batches[slot].call) is not None:
            self._returns.send(call, plain)


def _ignore_levels(answer: Levels | StoreUnavailable, asked_s: float) -> None:
    """The reply to a charge that takes back another one. What is lost is charged, or free after its lease."""


def _ignore(reply: object) -> None:
    """A reply without use: a command that may have run is never sent again."""
