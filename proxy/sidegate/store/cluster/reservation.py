"""One request with buckets in several slots of a Cluster, which no single script call can decide.

The buckets of each slot are charged separately and at the same time: reserved. If all pass, the reservation is the
charge. If one refuses or fails, the charges of the other slots are given back at once, on the same connections, so that
they are back before any later call of this proxy. A bucket is never given more than was taken from it, less its growth
meanwhile: see give_back.lua.

A Cluster therefore never admits more than one server would. It may admit less while a reservation stands (one round
trip): other requests do not see the reserved tokens. Tokens of a call whose reply was lost stay spent.

Pure: no I/O and no waiting. docs/adr/0007 has the alternatives.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from sidegate.decision.bucket import Charge, Level
from sidegate.store.protocol import Levels, OnLevels, StoreUnavailable

# Gives back the charges of one slot, which left these levels.
GiveBack = Callable[[int, Sequence[Charge], Sequence[Level]], None]


class Reservation:
    """A request under way in several slots; `positions` maps each slot to its positions in `charges`."""

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
        """The charges of each slot, and the callback for its levels."""
        return [
            (slot, [self._charges[position] for position in positions], partial(self._answered, slot))
            for slot, positions in self._positions.items()
        ]

    def _answered(self, slot: int, answer: Levels | StoreUnavailable, asked_s: float) -> None:
        # The earliest time: growth counted from it is never too little.
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
        # A refusal by one bucket stands without the others.
        self._then(self._levels if self._failure is None or refused else self._failure, self._asked_s)

    def _undo(self, slot: int, positions: Sequence[int]) -> None:
        left = [level for position in positions if (level := self._levels[position]) is not None]
        for position, level in zip(positions, left, strict=True):  # every charge that was taken has a level
            self._levels[position] = level._replace(tokens=level.tokens + self._charges[position].cost)
        if positions:
            self._give_back(slot, [self._charges[position] for position in positions], left)

    def _passes(self, position: int) -> bool:
        level = self._levels[position]
        return self._charges[position].shadow or (level is not None and level.enough)

    def _took(self, position: int) -> bool:
        level = self._levels[position]
        return level is not None and level.enough and self._charges[position].cost > 0
