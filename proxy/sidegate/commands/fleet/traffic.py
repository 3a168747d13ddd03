"""What several sidecars decided in the last seconds, added up. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Always told of; the others once they have occurred.
ALWAYS_TOLD = ("allowed", "refused")
WITHOUT_STORE = ("local_allowed", "local_refused", "store_allowed", "store_denied")
OUTCOMES = (*ALWAYS_TOLD, "shadow_refused", *WITHOUT_STORE)
_TURNED_AWAY = ("refused", "local_refused", "store_denied")

_BARS = "▁▂▃▄▅▆▇█"


@dataclass(slots=True)
class Traffic:
    """Decisions by policy and outcome, by policy and second, and the keys refused most."""

    seconds: int = 0
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    by_second: dict[str, list[int]] = field(default_factory=dict)
    refused_keys: list[dict[str, Any]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All decisions."""
        return sum(sum(counts.values()) for counts in self.outcomes.values())

    @property
    def refused(self) -> int:
        """Those that turned the request away, also for want of the store."""
        return sum(map(_turned_away, self.outcomes.values()))

    @property
    def sums(self) -> Counter[str]:
        """By outcome."""
        return sum(self.outcomes.values(), Counter())

    def policies(self) -> list[str]:
        """Names, those that refused most first, then the busiest."""
        return sorted(
            self.outcomes,
            key=lambda name: (-_turned_away(self.outcomes[name]), -sum(self.outcomes[name].values()), name),
        )


def _turned_away(counts: Counter[str]) -> int:
    return sum(counts[outcome] for outcome in _TURNED_AWAY)


def not_closed(store: Mapping[str, Any]) -> list[str]:
    """What keeps questions from the store, as `/timeline` tells it: breakers that are not closed, by node."""
    return [
        f"breaker{' of ' + each['node'] if each['node'] else ''} {each['state']}: {each['reason']}"
        for each in store.get("breakers", ())
        if each["state"] != "closed"
    ]


def traffic_of(timelines: Iterable[Mapping[str, Any]]) -> Traffic:
    """Add up what `/timeline` answered; an empty answer adds nothing. The newest seconds are put side by side."""
    timelines = list(timelines)
    traffic = Traffic(max((len(each.get("seconds", ())) for each in timelines), default=0))
    keys: dict[str, dict[str, Any]] = {}
    for timeline in timelines:
        told: Sequence[Mapping[str, Any]] = timeline.get("seconds", ())
        for position, second in enumerate(told, traffic.seconds - len(told)):
            for policy, outcomes in second["policies"].items():
                traffic.outcomes.setdefault(policy, Counter()).update(outcomes)
                line = traffic.by_second.setdefault(policy, [0] * traffic.seconds)
                line[position] += sum(outcomes.values())
        for entry in timeline.get("state", {}).get("refused", ()):
            known = keys.setdefault(entry["bucket"], {**entry, "count": 0, "error": 0})
            known["count"] += entry["count"]
            known["error"] += entry["error"]
    traffic.refused_keys = sorted(keys.values(), key=lambda entry: (entry["error"] - entry["count"], entry["bucket"]))
    return traffic


def sparkline(values: Sequence[int], width: int) -> str:
    """The values as a row of bars, `width` at most, the newest at the right; each bar the mean of its values."""
    if not values:
        return ""
    size = -(-len(values) // width)
    groups = [values[max(0, end - size) : end] for end in range(len(values), 0, -size)][::-1]
    means = [sum(group) / len(group) for group in groups]
    most = max(means)
    return "".join(_BARS[round(mean / most * (len(_BARS) - 1))] if mean else " " for mean in means)
