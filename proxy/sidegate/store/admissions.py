"""The holds and places of admitted requests in the store, from the decision to their end.

    HOLD   at the decision ──► SETTLE at the answer: the final cost, or the held one where the answer states none
    PLACE  at the decision ──► RENEW every few seconds ──► LEAVE at the end

The ends are sent with the other requests of their turn. One that was certainly not carried out is sent again once the
store answers; so is a LEAVE whose fate is unknown, since a place cannot be freed twice. A settlement whose fate is
unknown is not sent again: its hold then counts as charged after some minutes (decision/bucket.py).

A hold that the local share admitted (`on_store_failure: local`) is settled there, and its final cost becomes a debt to
the shared bucket.
"""

import asyncio
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from itertools import count

from sidegate.decision.bucket import HOLD_EPOCH_US, LEASE_US, Charge, ChargeKind, Level, Places
from sidegate.decision.policy import PolicyMatch
from sidegate.decision.reading import Reading
from sidegate.store.local_store import LocalStore
from sidegate.store.protocol import FATE_UNKNOWN, Levels, Store, StoreUnavailable

# A place is lost without a renewal for LEASE_US (10 s): three renewals fit.
RENEW_EVERY_S = 3.0
# How often it is tried again to send what could not be sent, while no request shows that the store answers.
RESUME_EVERY_S = 0.5
# Bounds the ends that wait for the store, and with them the memory: about 20 MB.
MOST_UNSENT = 65_536
# Ends that are sent again in one turn of the event loop, and renewals of one request to the store.
PORTION = 256
# How long it is tried to send an end: then the place is free, or the hold is charged, without it.
KEPT_S = {ChargeKind.LEAVE: LEASE_US / 1e6, ChargeKind.SETTLE: HOLD_EPOCH_US / 1e6, ChargeKind.UNBOOK: 0.0}

_RESULTS = ("kept", "given_back", "measured", "unread", "lost")
_HOLD, _PLACE, _LEAVE = ChargeKind.HOLD, ChargeKind.PLACE, ChargeKind.LEAVE
# Beyond any moment of a clock.
_ALWAYS_US = 2**53


class Admissions:
    """The admissions of one sidecar process. `can_send`: whether the store may be called; `forget` drops what the deny
    cache knows of a bucket.
    """

    def __init__(
        self, store: Store, local: LocalStore, can_send: Callable[[], bool], forget: Callable[[str, float], None]
    ) -> None:
        self._store = store
        self._local = local
        self._can_send = can_send
        self._forget = forget
        # Ends to be sent again, each with the time until which.
        self._unsent: deque[tuple[Charge, float]] = deque()
        self._resuming = 0  # of these, how many are still to be tried in the present round
        # The leases of this process, by bucket, each with the charge that took its place.
        self._leases: dict[str, dict[str, Charge]] = {}
        self._process = secrets.token_hex(6)
        self._numbers = count()
        self._settled = dict.fromkeys(_RESULTS, 0)
        self.places: Counter[str] = Counter()  # in use, by policy

    async def run(self) -> None:
        """Renew places, and send what could not be sent. Runs until cancelled."""
        due_s = 0.0
        while True:
            await asyncio.sleep(RESUME_EVERY_S)
            if not self._can_send():
                continue
            self.resume()
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + RENEW_EVERY_S
                self.renew()

    def named(self, applied: Sequence[PolicyMatch]) -> Sequence[PolicyMatch]:
        """The same policies, with new leases for the places that the request is to take."""
        if not any(charge is not None and charge.kind is _PLACE for _, charge in applied):
            return applied
        return [
            entry
            if entry.charge is None or entry.charge.kind is not _PLACE
            else PolicyMatch(entry.policy, entry.charge.as_kind(_PLACE, (f"{self._process}:{next(self._numbers)}",)))
            for entry in applied
        ]

    def open(
        self, applied: Sequence[PolicyMatch], levels: Sequence[Level | None], *, local: Container[int] = ()
    ) -> "RequestAdmission | None":
        """The admission of a request that passes; None where it holds nothing.

        `local`: the positions that were decided without the store. Places that are taken unchecked there (no level)
        count all the same, once the store is back.
        """
        holds: dict[int, Charge] = {}
        leases: list[tuple[str, Charge]] = []
        bookings: list[Charge] = []
        for position, ((policy, charge), level) in enumerate(zip(applied, levels, strict=True)):
            if charge is None or not charge.cost or not (position in local if level is None else level.enough):
                continue
            if charge.kind is _HOLD and level is not None:
                holds[position] = charge.as_kind(ChargeKind.SETTLE, (charge.cost, level.at_us))
            elif charge.kind is ChargeKind.BOOK and level is not None and level.tokens < 0:
                bookings.append(charge.as_kind(ChargeKind.UNBOOK, (level.tokens, level.at_us - level.age_us)))
            elif charge.kind is _PLACE:
                leases.append((policy.name, charge))
                self._leases.setdefault(charge.key, {})[str(charge.detail[0])] = charge
                self.places[policy.name] += 1
        if not (holds or leases or bookings):
            return None
        return RequestAdmission(self, holds, leases, bookings, local)

    def abandon(self, applied: Sequence[PolicyMatch]) -> None:
        """Free the places of a request that does not pass, in case that the store took them: its reply was lost."""
        for charge in (entry.charge for entry in applied):
            if charge is not None and charge.kind is _PLACE:
                self._keep(charge.as_kind(_LEAVE, charge.detail), time.monotonic() + KEPT_S[_LEAVE])

    def settle(self, hold: Charge, cost: int | None, *, local: bool) -> None:
        """Settle a hold at its final cost; None: the held cost stays charged."""
        final = hold.cost if cost is None else cost
        self._settled[_result(hold.cost, cost)] += 1
        charge = hold.as_kind(hold.kind, (final, hold.detail[1]))
        if local:
            self._local.settle(charge)
            return
        self._end(charge)
        if final < hold.cost:
            self._forget(hold.key, time.monotonic())

    def unbook(self, booking: Charge) -> None:
        """Give back a booking, if nothing was charged after it."""
        self._end(booking)
        self._forget(booking.key, time.monotonic())

    def leave(self, policy: str, place: Charge) -> None:
        """Free a place."""
        key, lease = place.key, str(place.detail[0])
        leases = self._leases[key]
        del leases[lease]
        if not leases:
            del self._leases[key]
        self.places[policy] -= 1
        self._end(place.as_kind(_LEAVE, place.detail))
        self._forget(key, time.monotonic())

    def renew(self) -> None:
        """Keep all places of this process: in one call, or one for each portion of buckets."""
        for leases in list(self._leases.values()):
            charges = [place.as_kind(ChargeKind.RENEW, place.detail) for place in leases.values()]
            for begin in range(0, len(charges), PORTION):
                self._store.ask(charges[begin : begin + PORTION], _ignore)

    def places_of(self, key: str) -> Places:
        """The places of a bucket that this process has taken."""
        return Places(dict.fromkeys(self._leases.get(key, ()), _ALWAYS_US))

    def resume(self) -> None:
        """Send again what could not be sent: each once, a portion in each turn of the event loop."""
        if not self._resuming:
            self._resuming = len(self._unsent)
            self._resume()

    def _resume(self) -> None:
        now_s = time.monotonic()
        for _ in range(min(self._resuming, PORTION)):
            self._resuming -= 1
            charge, until_s = self._unsent.popleft()
            if now_s < until_s:
                self._send(charge, until_s)
            else:
                self._give_up(charge)
        if self._resuming:
            asyncio.get_running_loop().call_soon(self._resume)

    @property
    def unsent(self) -> int:
        """Ends that wait for the store."""
        return len(self._unsent)

    def readings(self) -> Iterator[Reading]:
        """Metrics of settlements and places."""
        yield Reading(
            "settlements", "Held costs by how an answer settled them.", lambda: self._settled, "result", is_counter=True
        )
        yield Reading("places", "Requests under way under a policy with in_flight.", lambda: self.places, "policy")
        yield Reading("admission_ends_unsent", "Ends of admissions that wait for the store.", lambda: self.unsent)

    def _end(self, charge: Charge) -> None:
        until_s = time.monotonic() + KEPT_S[charge.kind]
        if self._can_send():
            self._send(charge, until_s)
        else:
            self._keep(charge, until_s)

    def _send(self, charge: Charge, until_s: float) -> None:
        self._store.ask((charge,), partial(self._sent, charge, until_s))

    def _sent(self, charge: Charge, until_s: float, answer: Levels | StoreUnavailable, _: float) -> None:
        if not isinstance(answer, StoreUnavailable):
            return
        if answer.reason not in FATE_UNKNOWN or charge.kind is _LEAVE:
            self._keep(charge, until_s)
        else:
            self._give_up(charge)

    def _keep(self, charge: Charge, until_s: float) -> None:
        if len(self._unsent) < MOST_UNSENT:
            self._unsent.append((charge, until_s))
        else:
            self._give_up(charge)

    def _give_up(self, charge: Charge) -> None:
        self._settled["lost"] += charge.kind is ChargeKind.SETTLE


class RequestAdmission:
    """Implements `decision.settling.Admission`."""

    __slots__ = ("_admissions", "_bookings", "_holds", "_leases", "_local", "final_costs")

    def __init__(
        self,
        admissions: Admissions,
        holds: dict[int, Charge],
        leases: list[tuple[str, Charge]],
        bookings: list[Charge],
        local: Container[int],
    ) -> None:
        self._admissions = admissions
        self._holds = holds
        self._leases = leases
        self._bookings = bookings
        self._local = local
        self.final_costs: dict[int, int] = {}

    def settle(self, position: int, cost: int | None) -> None:
        """See Admission."""
        hold = self._holds.pop(position, None)
        if hold is not None:
            self.final_costs[position] = hold.cost if cost is None else cost
            self._admissions.settle(hold, cost, local=position in self._local)

    def leave(self) -> None:
        """See Admission."""
        self._bookings.clear()
        for position in list(self._holds):
            self.settle(position, None)
        while self._leases:
            self._admissions.leave(*self._leases.pop())

    def move_places(self) -> "RequestAdmission | None":
        """See Admission."""
        leases, self._leases = self._leases, []
        return RequestAdmission(self._admissions, {}, leases, [], ()) if leases else None

    def cancel(self) -> None:
        """See Admission."""
        for position in list(self._holds):
            self.settle(position, 0)
        while self._bookings:
            self._admissions.unbook(self._bookings.pop())
        self.leave()


def _result(held: int, cost: int | None) -> str:
    """How an answer settled a held cost, as a metric's label."""
    if cost is None:
        return "unread"
    if cost == held:
        return "kept"
    return "measured" if cost else "given_back"


def _ignore(_: Levels | StoreUnavailable, __: float) -> None:
    """The reply to a renewal: the next one follows soon."""
