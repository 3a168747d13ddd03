"""What an operator can see of the buckets that lie in the store, and take out of it."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class StoreSilent(Exception):
    """The store gave no answer to a question that no request waits for. The text says why."""


class Stored(NamedTuple):
    """A bucket as it is stored. `tokens` are those at its last charge; None where it is no bucket."""

    name: str
    tokens: int | None
    ttl_s: float | None


class Found(NamedTuple):
    """Some buckets, and the cursor that finds more; empty at the end."""

    buckets: Sequence[Stored]
    cursor: str


class BucketStore(Protocol):
    """Every method raises StoreSilent where the store does not answer in a person's patience."""

    async def find(self, prefix: str, part: str, cursor: str, most: int) -> Found:
        """Buckets whose names begin with `prefix` and hold `part` after it: some, perhaps none, and where to go on."""

    async def read(self, name: str) -> Stored | None:
        """One bucket as it is stored; None where it is not."""

    async def reset(self, name: str) -> bool:
        """Take a bucket out, so that its next request finds a new one. Returns whether there was one."""
