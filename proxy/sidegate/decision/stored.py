"""Buckets as stored, for the admin API."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class StoreSilent(Exception):
    """The store did not answer a query of the admin API. The text gives the reason."""


class Stored(NamedTuple):
    """A bucket as stored. `tokens` are those at its last charge; None where the key holds no bucket of tokens.

    `places` are the requests under way, of a bucket that counts them, with those whose lease has just run out.
    """

    name: str
    tokens: int | None
    ttl_s: float | None
    places: int | None = None


class Found(NamedTuple):
    """One page of buckets, and the cursor of the next page; empty at the end."""

    buckets: Sequence[Stored]
    cursor: str


class BucketStore(Protocol):
    """Every method raises StoreSilent if the store does not answer within about two seconds."""

    async def find(self, prefix: str, part: str, cursor: str, most: int) -> Found:
        """One page of the buckets whose names begin with `prefix` and contain `part` after it."""

    async def read(self, name: str) -> Stored | None:
        """One bucket as stored; None where there is none."""

    async def reset(self, name: str) -> bool:
        """Delete a bucket; its next request starts a new one. Returns whether there was one."""
