"""Figures of several sidecars, added up. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sidegate.commands.spark_bars import spark_bars

# Windows of the figures and of the table of policies; dashboard, `top` and `status` use the same.
FIGURES_S = 10
POLICIES_S = 60
CLASSES = ("2xx", "4xx", "429", "5xx")


@dataclass(slots=True)
class FleetTotals:
    """Sums over sidecars. Shares are weighted by requests; latency is that of the slowest sidecar."""

    requests_per_s: float = 0.0
    in_flight: int = 0
    shares: dict[str, float | None] = field(default_factory=dict)
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(slots=True)
class PolicyFigures:
    """One policy over all sidecars, in the last POLICIES_S seconds; `per_second` has the newest last."""

    name: str
    limit: str = ""
    matched: int = 0
    refused: int = 0
    shadow_refused: int = 0
    shadow: bool = False
    exempt: bool = False
    under_way: int | None = None  # where the policy counts requests under way
    removed: bool = True
    per_second: list[int] = field(default_factory=lambda: [0] * POLICIES_S)

    @property
    def refused_share(self) -> float | None:
        """Refused part of the matched requests."""
        return self.refused / self.matched if self.matched else None


def totals_of_overviews(overviews: Sequence[Mapping[str, Any]]) -> FleetTotals:
    """Adds up what `/overview` answered."""
    rate = sum(each["requests_per_s"] for each in overviews)

    def share(name: str) -> float | None:
        parts = [each["requests_per_s"] * (each["responses"][name] or 0) for each in overviews]
        return sum(parts) / rate if rate else None

    def slowest(name: str) -> float | None:
        values = [each["latency_ms"]["total"][name] for each in overviews]
        return max((value for value in values if value is not None), default=None)

    return FleetTotals(
        rate,
        sum(each["in_flight"] for each in overviews),
        {name: share(name) for name in CLASSES},
        slowest("p50"),
        slowest("p99"),
    )


def policy_figures(
    documents: Iterable[Mapping[str, Any]], timelines: Iterable[Mapping[str, Any]] = ()
) -> list[PolicyFigures]:
    """Adds up what `/policies` and `/timeline` answered; empty answers add nothing. Most refusals first."""
    found: dict[str, PolicyFigures] = {}
    for document in documents:
        for each in document.get("policies", ()):
            figures = found.setdefault(each["name"], PolicyFigures(each["name"]))
            figures.matched += each["recent"]["matched"]
            figures.refused += each["recent"]["refused"]
            figures.shadow_refused += each["recent"]["shadow_refused"]
            figures.shadow |= each["shadow"]
            figures.removed &= each["removed"]
            figures.exempt |= each["exempt"]
            if not each["removed"]:
                limit = each.get("limit_text", "exempt")
                if "under_way" in each:
                    figures.under_way = (figures.under_way or 0) + each["under_way"]
                figures.limit = limit if figures.limit in ("", limit) else "differs by sidecar"
    for timeline in timelines:
        seconds: Sequence[Mapping[str, Any]] = timeline.get("seconds", ())[-POLICIES_S:]
        for position, second in enumerate(seconds, POLICIES_S - len(seconds)):
            for name, outcomes in second["policies"].items():
                if name in found:
                    found[name].per_second[position] += sum(outcomes.values())
    return sorted(found.values(), key=lambda each: (-each.refused, -each.shadow_refused, -each.matched, each.name))


def refused_keys(timelines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The keys refused most over all sidecars, most refusals first."""
    keys: dict[str, dict[str, Any]] = {}
    for timeline in timelines:
        for entry in timeline.get("state", {}).get("refused", ()):
            known = keys.setdefault(entry["bucket"], {**entry, "count": 0, "error": 0})
            known["count"] += entry["count"]
            known["error"] += entry["error"]
    return sorted(keys.values(), key=lambda entry: (entry["error"] - entry["count"], entry["bucket"]))


def sparkline(values: Sequence[int], width: int) -> str:
    """The values as a row of bars, at most `width`, the newest at the right; each bar is the mean of its values."""
    if not values:
        return ""
    size = -(-len(values) // width)
    groups = [values[max(0, end - size) : end] for end in range(len(values), 0, -size)][::-1]
    return spark_bars([sum(group) / len(group) for group in groups])
