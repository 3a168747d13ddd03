"""How the answer settles the cost that its request holds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sidegate.decision.bucket import MAX_BURST

_WHOLE = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class SettleRule:
    """Exactly one of `when`, `header` and `json` is set.

    `when`: statuses that keep the cost; any other gives it back. `header`: the field (lower case) with the final cost,
    which reaches the client only with `keep_header`. `json`: the path of the final cost in the body.
    """

    when: frozenset[int] = frozenset()
    header: str = ""
    keep_header: bool = False
    json: tuple[str, ...] = ()

    def by_status(self, status: int, cost: int) -> int:
        """The final cost, where `when` is set."""
        return cost if status in self.when else 0


def final_cost(written: object) -> int | None:
    """The cost that an answer states: a whole number, also as text; None for anything else, and above MAX_BURST."""
    if isinstance(written, str):
        if not _WHOLE.fullmatch(written):
            return None
        written = int(written)
    if not isinstance(written, int) or isinstance(written, bool) or not 0 <= written <= MAX_BURST:
        return None
    return written


def value_at(document: object, path: Sequence[str]) -> object:
    """The value at a path of keys in a JSON document; None where there is none."""
    for key in path:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document


class Admission(Protocol):
    """What an admitted request holds in the store. Every method takes effect once.

    `final_costs`: of the charges that are settled, by their position in `Verdict.applied`.
    """

    final_costs: dict[int, int]

    def settle(self, position: int, cost: int | None) -> None:
        """Settle the charge of the policy at this position in `Verdict.applied`; None: the held cost stays charged."""

    def leave(self) -> None:
        """The request has ended: free its places. Costs that are not settled stay charged."""

    def move_places(self) -> "Admission | None":
        """Take the places out of this admission; `leave` of the returned one frees them. None where it has none."""

    def cancel(self) -> None:
        """The request never reached the application: give back what it holds, as far as that is possible."""
