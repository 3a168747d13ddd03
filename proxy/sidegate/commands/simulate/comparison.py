"""Compares the refusals of two replays by policy and by key. Pure."""

from typing import NamedTuple

from sidegate.commands.simulate.replay import Replay
from sidegate.commands.simulate.tally import KeyTally, Tally

# Number of keys listed, of those refused most and of those that change most.
LISTED_KEYS = 10


class PolicyChange(NamedTuple):
    """Refusals of one policy name under two configurations; None if a configuration has no such policy."""

    name: str
    refused: int | None
    refused_against: int | None

    @property
    def change(self) -> int:
        return (self.refused or 0) - (self.refused_against or 0)


class KeyChange(NamedTuple):
    """Refusals of one key of a policy name under two configurations."""

    policy: str
    key: str
    refused: int
    refused_against: int

    @property
    def change(self) -> int:
        return self.refused - self.refused_against


def most_refused(tally: Tally) -> list[KeyTally]:
    """Return the keys refused most, in descending order; shadow refusals count as well."""
    refused = [key for key in tally.keys.values() if key.refused]
    return sorted(refused, key=lambda key: (-key.refused, -key.requests, key.policy, key.key))[:LISTED_KEYS]


def policy_changes(replay: Replay, against: Replay) -> list[PolicyChange]:
    """Return all policies of both replays, in the order of the first, then of the second."""
    first, second = _refusals(replay.tally), _refusals(against.tally)
    return [PolicyChange(name, first.get(name), second.get(name)) for name in {**first, **second}]


def key_changes(replay: Replay, against: Replay) -> list[KeyChange]:
    """Return the keys whose refusals differ most, in descending order."""
    first, second = _by_key(replay.tally), _by_key(against.tally)
    changes = [KeyChange(*name, first.get(name, 0), second.get(name, 0)) for name in {**first, **second}]
    changed = [change for change in changes if change.change]
    return sorted(changed, key=lambda item: (-abs(item.change), item.policy, item.key))[:LISTED_KEYS]


def _refusals(tally: Tally) -> dict[str, int]:
    return {name: policy.refused + policy.shadow_refused for name, policy in tally.policies.items()}


def _by_key(tally: Tally) -> dict[tuple[str, str], int]:
    return {(key.policy, key.key): key.refused for key in tally.keys.values() if key.refused}
