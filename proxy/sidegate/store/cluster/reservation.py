"""One request whose buckets lie in several slots of a Cluster, where no script can decide on all of them at once.

Every slot's buckets are charged on their own, all at the same time: reserved. Where all pass, the reservation is the
charge. Where one refuses or fails, what the others took is given back at once, on the connections that it was taken on,
so that it is back before any later question of this proxy is looked at. A bucket is never given more than was taken
from it, less what grew meanwhile: see give_back.lua.

So a Cluster never admits more than one server would. It may admit less, for as long as a reservation stands (one round
trip): another request may find the tokens gone that are given back a moment later. What was taken by a call whose
answer was lost stays spent.

Pure: it neither sends nor waits. See docs/adr/0007 for what else was considered.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from sidegate.decision.bucket import Charge, Level
from sidegate.store.protocol import Levels, OnLevels, StoreUnavailable

# Gives back what was charged in one slot, and left these levels.
GiveBack = Callable[[int, Sequence[Charge], Sequence[Level]], None]


class Reservation:
    """A request under way in several slots; `positions` says where in `charges` each slot's are."""

    __slots__ = (
        "_asked_s",
        "_charges",
        "_failure",
        "_give_back",
        "_levels",
        "_outstanding",
        "_positions",
        "_taken",
        "_then",
    )

    def __init__(
        self, charges: Sequence[Charge], positions: Mapping[int, Sequence[int]], then: OnLevels, give_back: GiveBack
    ) -> None:
        self._charges = charges
        self._positions = positions
        self._then = then
        self._give_back = give_back
        self._levels: list[Level | None] = [None] * len(charges)
        self._taken: dict[int, list[int]] = {}
        self._failure: StoreUnavailable | None = None
        self._asked_s = 0.0
        self._outstanding = len(positions)

    def parts(self) -> list[tuple[int, list[Charge], OnLevels]]:
        """What to ask in each slot, and who is to be told."""
        return [
            (slot, [self._charges[position] for position in positions], partial(self._heard, slot))
            for slot, positions in self._positions.items()
        ]

    def _heard(self, slot: int, answer: Levels | StoreUnavailable, asked_s: float) -> None:
        # The earliest: whoever counts growth from then counts enough.
        self._asked_s = min(self._asked_s or asked_s, asked_s)
        positions = self._positions[slot]
        if isinstance(answer, StoreUnavailable):
            if not all(self._charges[position].shadow for position in positions):
                self._failure = answer
        else:
            for position, level in zip(positions, answer, strict=True):
                self._levels[position] = level
            if all(map(self._passes, positions)):
                self._taken[slot] = [position for position in positions if self._took(position)]
        self._outstanding -= 1
        if not self._outstanding:
            self._conclude()

    def _conclude(self) -> None:
        if not all(map(self._passes, range(len(self._charges)))):
            for slot, positions in self._taken.items():
                self._undo(slot, positions)
        refused = any(
            level is not None and not level.enough and not charge.shadow
            for charge, level in zip(self._charges, self._levels, strict=True)
        )
        # What one bucket refuses needs no word of another.
        self._then(self._levels if self._failure is None or refused else self._failure, self._asked_s)

    def _undo(self, slot: int, positions: Sequence[int]) -> None:
        left = [level for position in positions if (level := self._levels[position]) is not None]
        for position, level in zip(positions, left, strict=True):  # what was taken left a level
            self._levels[position] = level._replace(tokens=level.tokens + self._charges[position].cost)
        if positions:
            self._give_back(slot, [self._charges[position] for position in positions], left)

    def _passes(self, position: int) -> bool:
        level = self._levels[position]
        return self._charges[position].shadow or (level is not None and level.enough)

    def _took(self, position: int) -> bool:
        level = self._levels[position]
        return level is not None and level.enough and self._charges[position].cost > 0
