"""Two configurations beside each other: what one would refuse that the other would not. Pure."""

from typing import NamedTuple

from sidegate.commands.simulate.replay import Replay
from sidegate.commands.simulate.tally import KeyTally, Tally

# Keys that are named, of those hit hardest and of those that change most.
MOST_NAMED = 10


class PolicyChange(NamedTuple):
    """One policy name under two configurations; None where a configuration has no such policy."""

    name: str
    refused: int | None
    refused_against: int | None

    @property
    def change(self) -> int:
        return (self.refused or 0) - (self.refused_against or 0)


class KeyChange(NamedTuple):
    """One key of a policy name under two configurations."""

    policy: str
    key: str
    refused: int
    refused_against: int

    @property
    def change(self) -> int:
        return self.refused - self.refused_against


def hit_hardest(tally: Tally) -> list[KeyTally]:
    """The keys refused most often, the worst first; shadow refusals count too."""
    refused = [key for key in tally.keys.values() if key.refused]
    return sorted(refused, key=lambda key: (-key.refused, -key.requests, key.policy, key.key))[:MOST_NAMED]


def policy_changes(replay: Replay, against: Replay) -> list[PolicyChange]:
    """All policies of both, in the order of the first, then of the second."""
    ours, theirs = _refusals(replay.tally), _refusals(against.tally)
    return [PolicyChange(name, ours.get(name), theirs.get(name)) for name in {**ours, **theirs}]


def key_changes(replay: Replay, against: Replay) -> list[KeyChange]:
    """The keys whose refusals differ most."""
    ours, theirs = _by_key(replay.tally), _by_key(against.tally)
    changes = [KeyChange(*name, ours.get(name, 0), theirs.get(name, 0)) for name in {**ours, **theirs}]
    changed = [change for change in changes if change.change]
    return sorted(changed, key=lambda item: (-abs(item.change), item.policy, item.key))[:MOST_NAMED]


def _refusals(tally: Tally) -> dict[str, int]:
    return {name: policy.refused + policy.shadow_refused for name, policy in tally.policies.items()}


def _by_key(tally: Tally) -> dict[tuple[str, str], int]:
    return {(key.policy, key.key): key.refused for key in tally.keys.values() if key.refused}
