"""The slots of a Cluster: 16,384, each served by one node at a time.

Pure: parses replies of nodes, without I/O.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.crc import key_slot

from sidegate.config.store_url import Address
from sidegate.decision.bucket import Charge

SLOTS = 16_384


class BadSlots(Exception):
    """The reply of a node is not a map of slots."""


class SlotRange(NamedTuple):
    """Slots `first` to `last`, and the master that serves them."""

    first: int
    last: int
    master: Address


class Redirect(NamedTuple):
    """A redirection to another node: for all calls of a slot (MOVED), or for this call only (ASK)."""

    slot: int
    address: Address
    asking: bool


def slot_of(key: str) -> int:
    """The slot of a key."""
    return key_slot(key.encode())


def by_slot(charges: Sequence[Charge]) -> dict[int, list[int]]:
    """Positions of the charges in each slot."""
    found: dict[int, list[int]] = {}
    for position, charge in enumerate(charges):
        found.setdefault(slot_of(charge.key), []).append(position)
    return found


def read_slots(reply: Any, asked: Address) -> list[SlotRange]:
    """The reply to CLUSTER SLOTS of the node at `asked`. Raises BadSlots."""
    try:
        return [_range(entry, asked) for entry in reply]
    except (TypeError, ValueError, IndexError, AttributeError, UnicodeDecodeError) as error:
        raise BadSlots(f"not a map of slots: {error}") from error


def read_redirect(text: str, asked: Address) -> Redirect | None:
    """The redirection in an error reply of the node at `asked`; None where there is none."""
    word, _, rest = text.partition(" ")
    if word not in ("MOVED", "ASK"):
        return None
    slot, _, place = rest.partition(" ")
    host, _, port = place.rpartition(":")
    if not (slot.isdigit() and int(slot) < SLOTS and port.isdigit()):
        return None
    return Redirect(int(slot), Address(host.strip("[]") or asked.host, int(port)), word == "ASK")


def _range(entry: Any, asked: Address) -> SlotRange:
    first, last, master = entry[:3]
    host, port = master[:2]
    if not 0 <= first <= last < SLOTS:
        raise ValueError(f"slots {first} to {last}")
    # A node that does not know its own address sends an empty host: its address is the one used for the query.
    return SlotRange(first, last, Address(host.decode() if host else asked.host, int(port)))
