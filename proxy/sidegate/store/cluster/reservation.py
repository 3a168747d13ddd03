"""One request with buckets in several slots of a Cluster, which no single script call can decide.

The buckets of each slot are charged separately: reserved. If all pass, the reservation is the charge. If one refuses,
the charges of the other slots are given back at once (see give_back.lua), and also if a bucket cannot be read. If a
slot fails, the others stand until the failure mode of its policies has decided: see `protocol.PartlyUnavailable`.

Usually all slots are charged at the same time, in one round trip. A slot with a bucket that is likely to refuse is
charged first, alone, and the others only once it has passed: then a refusal reserves nothing elsewhere, and callers who
compete for the same buckets queue at one of them instead of each holding tokens that another one lacks. The others do
not wait for more than half of the timeout, so that a node that hangs does not keep healthy ones from deciding.

A Cluster never admits more than one server would. It may admit less while a reservation stands (one round trip): other
requests do not see the reserved tokens. Tokens of a call whose reply was lost stay spent.

Pure: no I/O and no waiting. docs/adr/0007 has the alternatives.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from sidegate.decision.bucket import Charge, Level
from sidegate.store.protocol import Levels, OnLevels, PartlyUnavailable, StoreUnavailable

# Charges the buckets of one slot.
AskSlot = Callable[[int, Sequence[Charge], OnLevels], None]
# Gives back the charges of one slot, which left these levels.
UndoSlot = Callable[[int, Sequence[Charge], Sequence[Level]], None]


class Reservation:
    """A request under way in several slots; `positions` maps each slot to its positions in `charges`."""

    __slots__ = (
        "_ask",
        "_asked_s",
        "_charges",
        "_failure",
        "_give_back",
        "_levels",
        "_positions",
        "_taken",
        "_then",
        "_unanswered",
        "_unreadable",
        "_waiting",
    )

    def __init__(
        self,
        charges: Sequence[Charge],
        positions: Mapping[int, Sequence[int]],
        then: OnLevels,
        ask: AskSlot,
        give_back: UndoSlot,
    ) -> None:
        self._charges = charges
        self._positions = positions
        self._then: OnLevels | None = then
        self._ask = ask
        self._give_back = give_back
        self._levels: list[Level | None] = [None] * len(charges)
        self._taken: list[int] = []
        self._unreadable = False
        self._failure: StoreUnavailable | None = None
        self._asked_s = 0.0
        # Slots that were charged and have not answered; slots that are charged once these have passed.
        self._unanswered: set[int] = set()
        self._waiting: list[int] = []

    def begin(self, first: int | None = None, failed: Mapping[int, StoreUnavailable] | None = None) -> None:
        """Charge the slot `first`, and the others once it has passed; without it, all at the same time. The slots
        `failed` are known to be unavailable, and are not charged; at least one other is.
        """
        for failure in (failed or {}).values():
            self._failure = failure
        slots = [slot for slot in self._positions if not failed or slot not in failed]
        if first not in slots:
            first = None
        self._waiting = [] if first is None else [slot for slot in slots if slot != first]
        self._charge(slots if first is None else [first])

    def hurry(self) -> None:
        """Charge the slots that wait for the first one now."""
        if self._then is not None:
            waiting, self._waiting = self._waiting, []
            self._charge(waiting)

    def expire(self, failure: StoreUnavailable) -> None:
        """End the request, unless it has ended: slots that have not answered have failed."""
        if self._then is not None:
            self._failure = failure
            self._conclude()

    def _charge(self, slots: Sequence[int]) -> None:
        self._unanswered.update(slots)
        for slot in slots:
            charges = [self._charges[position] for position in self._positions[slot]]
            self._ask(slot, charges, partial(self._answered, slot))

    def _answered(self, slot: int, answer: Levels | StoreUnavailable, asked_s: float) -> None:
        self._unanswered.discard(slot)
        # The earliest time: growth counted from it is never too little.
        self._asked_s = min(self._asked_s or asked_s, asked_s)
        if isinstance(answer, StoreUnavailable):
            self._failure = answer
        else:
            self._note(slot, answer)
        if self._then is None:  # it has expired
            if slot in self._taken:
                self._undo([slot])
        elif not self._unanswered:
            if self._waiting and not self._refused:
                self.hurry()
            else:
                self._conclude()

    def _note(self, slot: int, levels: Levels) -> None:
        positions = self._positions[slot]
        for position, level in zip(positions, levels, strict=True):
            self._levels[position] = level
        if any(self._levels[position] is None and self._charges[position].may_refuse for position in positions):
            self._unreadable = True  # the script has charged nothing in this slot
        elif all(map(self._passes, positions)):
            self._taken.append(slot)

    def _conclude(self) -> None:
        then, self._then = self._then, None
        if then is None:
            return
        if self._refused or self._unreadable:
            self._undo(list(self._taken))
            then(self._levels, self._asked_s)  # a refusal by one bucket stands without the others
        elif self._failure is None:
            then(self._levels, self._asked_s)
        elif not self._taken:
            then(self._failure, self._asked_s)
        else:
            taken = list(self._taken)
            then(PartlyUnavailable(self._failure.reason, self._levels, lambda: self._undo(taken)), self._asked_s)

    @property
    def _refused(self) -> bool:
        return any(
            level is not None and not level.enough and charge.may_refuse
            for charge, level in zip(self._charges, self._levels, strict=True)
        )

    def _undo(self, slots: Sequence[int]) -> None:
        for slot in slots:
            charges, left = [], []
            for position in self._positions[slot]:
                charge, level = self._charges[position], self._levels[position]
                if level is not None and level.enough and charge.cost > 0:
                    charges.append(charge)
                    left.append(level)
                    self._levels[position] = level._replace(tokens=level.tokens + charge.cost)
            if charges:
                self._give_back(slot, charges, left)

    def _passes(self, position: int) -> bool:
        level = self._levels[position]
        return not self._charges[position].may_refuse or (level is not None and level.enough)
