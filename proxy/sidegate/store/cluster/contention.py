"""The buckets that refused last: of a request in several slots they are charged first.

A bucket is remembered from a refusal until it has tokens for a further request. Pure: no I/O and no clock.
"""

from collections.abc import Iterable, Sequence

from sidegate.decision.bucket import Charge
from sidegate.store.protocol import Levels

# Bounds the memory that an attacker with many identities can claim: about 10 MB.
MOST_REMEMBERED = 65_536


class Contention:
    """Remembers which buckets refused, the latest last. The oldest one is dropped for a new one."""

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        # The number of the latest refusal of each bucket.
        self._refused: dict[str, int] = {}
        self._count = 0

    def latest(self, keys: Iterable[str]) -> str | None:
        """Of these buckets the one that refused last; None where none is remembered."""
        known = [key for key in keys if key in self._refused]
        return max(known, key=self._refused.__getitem__) if known else None

    def note(self, charges: Sequence[Charge], levels: Levels) -> None:
        """Remember and forget buckets by their levels."""
        for charge, level in zip(charges, levels, strict=True):
            if level is None or not charge.cost:
                continue
            if not level.enough:
                self._remember(charge.key)
            elif level.tokens >= charge.cost:
                self._refused.pop(charge.key, None)

    def _remember(self, key: str) -> None:
        self._count += 1
        self._refused.pop(key, None)
        if len(self._refused) >= self._most:
            del self._refused[next(iter(self._refused))]
        self._refused[key] = self._count
