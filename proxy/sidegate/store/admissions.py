"""What admitted requests hold in the store, and how it ends: costs that answers settle, places of requests under way.

    HOLD   at the decision ──► SETTLE at the answer: the final cost, or the held one where the answer states none
    PLACE  at the decision ──► RENEW every few seconds ──► LEAVE at the end

The ends are sent with the other requests of their turn. One that was certainly not carried out is sent again once the
store answers; so is a LEAVE whose fate is unknown, since a place cannot be freed twice. A settlement whose fate is
unknown is not sent again: its hold then counts as charged after some minutes (decision/bucket.py).

A hold that the local share admitted (`on_store_failure: local`) is settled there, and its final cost becomes a debt to
the shared bucket.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from sidegate.decision.bucket import Charge, ChargeKind, Level
from sidegate.decision.policy import PolicyMatch
from sidegate.decision.reading import Reading
from sidegate.store.local_store import LocalStore
from sidegate.store.protocol import FATE_UNKNOWN, Levels, Store, StoreUnavailable

# Bounds the ends that wait for the store, and with them the memory: about 20 MB.
MOST_UNSENT = 65_536
# Ends that are sent again in one turn.
PORTION = 256

_RESULTS = ("kept", "given_back", "measured", "unread", "lost")


class Admissions:
    """The admissions of one sidecar process. `can_send`: whether the store may be called; `forget` drops what the deny
    cache knows of a bucket.
    """

    def __init__(
        self, store: Store, local: LocalStore, can_send: Callable[[], bool], forget: Callable[[str], None]
    ) -> None:
        self._store = store
        self._local = local
        self._can_send = can_send
        self._forget = forget
        self._unsent: deque[Charge] = deque()
        self.settled = dict.fromkeys(_RESULTS, 0)

    def open(
        self, applied: Sequence[PolicyMatch], levels: Sequence[Level | None], *, local: bool = False
    ) -> "RequestAdmission | None":
        """The admission of a request that passes; None where it holds nothing."""
        holds = {
            position: charge._replace(kind=ChargeKind.SETTLE, detail=(charge.cost, level.at_us))
            for position, ((_, charge), level) in enumerate(zip(applied, levels, strict=True))
            if charge is not None and charge.kind is ChargeKind.HOLD and level is not None and level.enough
        }
        return RequestAdmission(self, holds, local=local) if holds else None

    def settle(self, hold: Charge, cost: int | None, *, local: bool) -> None:
        """Settle a hold at its final cost; None: the held cost stays charged."""
        final = hold.cost if cost is None else cost
        self.settled[_result(hold.cost, cost)] += 1
        charge = hold._replace(detail=(final, hold.detail[1]))
        if local:
            self._local.settle(charge)
            return
        self._end(charge)
        if final < hold.cost:
            self._forget(hold.key)

    def resume(self) -> None:
        """Send again what could not be sent; a portion at a time."""
        for _ in range(min(PORTION, len(self._unsent))):
            self._send(self._unsent.popleft())

    @property
    def unsent(self) -> int:
        """Ends that wait for the store."""
        return len(self._unsent)

    def readings(self) -> Iterator[Reading]:
        """Metrics of settlements."""
        yield Reading(
            "settlements",
            "Held costs by how an answer settled them.",
            lambda: self.settled,
            "result",
            is_counter=True,
        )
        yield Reading("admission_ends_unsent", "Ends of admissions that wait for the store.", lambda: self.unsent)

    def _end(self, charge: Charge) -> None:
        if self._can_send():
            self._send(charge)
        else:
            self._keep(charge)

    def _send(self, charge: Charge) -> None:
        self._store.ask((charge,), partial(self._sent, charge))

    def _sent(self, charge: Charge, answer: Levels | StoreUnavailable, _: float) -> None:
        if not isinstance(answer, StoreUnavailable):
            return
        if answer.reason not in FATE_UNKNOWN:
            self._keep(charge)
        elif charge.kind is ChargeKind.SETTLE:
            self.settled["lost"] += 1

    def _keep(self, charge: Charge) -> None:
        if len(self._unsent) < MOST_UNSENT:
            self._unsent.append(charge)
        elif charge.kind is ChargeKind.SETTLE:
            self.settled["lost"] += 1


class RequestAdmission:
    """Implements `decision.settling.Admission`."""

    __slots__ = ("_admissions", "_holds", "_local")

    def __init__(self, admissions: Admissions, holds: dict[int, Charge], *, local: bool) -> None:
        self._admissions = admissions
        self._holds = holds
        self._local = local

    def settle(self, position: int, cost: int | None) -> None:
        """See Admission."""
        hold = self._holds.pop(position, None)
        if hold is not None:
            self._admissions.settle(hold, cost, local=self._local)

    def leave(self) -> None:
        """See Admission."""
        for position in list(self._holds):
            self.settle(position, None)

    def cancel(self) -> None:
        """See Admission."""
        for position in list(self._holds):
            self.settle(position, 0)


def _result(held: int, cost: int | None) -> str:
    """How an answer settled a held cost, as a metric's label."""
    if cost is None:
        return "unread"
    if cost == held:
        return "kept"
    return "measured" if cost else "given_back"
