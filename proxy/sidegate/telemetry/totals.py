"""Cumulative counts of one moment; the difference of two moments describes the requests between them. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from prometheus_client.core import Metric

from sidegate.telemetry.histogram import DURATIONS_S, quantile

_NO_COUNTS = (0,) * (len(DURATIONS_S) + 1)
_HISTOGRAMS = ("request_duration", "upstream_duration", "store_round_trip")


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts since the start of one or more workers, or of the time between two moments.

    `outcomes` counts by policy and outcome, `responses` by class of status (`429` apart from `4xx`), `errors` by
    reason, `decided` requests by the source of their decision. `refused` are requests that a policy answered 429;
    `application_errors` are 5xx that the application sent. Durations are counts per bucket of DURATIONS_S.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    responses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    decided: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    application_errors: int = 0
    request_counts: tuple[int, ...] = _NO_COUNTS
    application_counts: tuple[int, ...] = _NO_COUNTS
    store_counts: tuple[int, ...] = _NO_COUNTS

    def __add__(self, other: "Totals") -> "Totals":
        return self._combined(other, 1)

    def __sub__(self, other: "Totals") -> "Totals":
        """Counts since `other`, an earlier moment of the same counters. None is negative."""
        return self._combined(other, -1)

    def _combined(self, other: "Totals", sign: int) -> "Totals":
        return Totals(
            _joined(self.outcomes, other.outcomes, sign),
            _joined(self.responses, other.responses, sign),
            _joined(self.errors, other.errors, sign),
            _joined(self.decided, other.decided, sign),
            max(0, self.refused + sign * other.refused),
            max(0, self.application_errors + sign * other.application_errors),
            _per_bucket(self.request_counts, other.request_counts, sign),
            _per_bucket(self.application_counts, other.application_counts, sign),
            _per_bucket(self.store_counts, other.store_counts, sign),
        )

    @classmethod
    def sum_of(cls, parts: Iterable["Totals"]) -> "Totals":
        """The sum of many parts, in one pass."""
        outcomes: Counter[tuple[str, str]] = Counter()
        responses: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        decided: Counter[str] = Counter()
        parts = list(parts)
        for each in parts:
            outcomes.update(each.outcomes)
            responses.update(each.responses)
            errors.update(each.errors)
            decided.update(each.decided)
        return cls(
            outcomes,
            responses,
            errors,
            decided,
            sum(each.refused for each in parts),
            sum(each.application_errors for each in parts),
            *(
                tuple(map(sum, zip(_NO_COUNTS, *(getattr(each, name) for each in parts), strict=True)))
                for name in ("request_counts", "application_counts", "store_counts")
            ),
        )

    @property
    def requests(self) -> int:
        """Requests that ended."""
        return self.responses.total()

    @property
    def store_calls(self) -> int:
        """Calls that the store answered."""
        return sum(self.store_counts)


def totals_of(families: Iterable[Metric]) -> Totals:
    """The counts in metric families, as telemetry.metrics exports them."""
    outcomes: Counter[tuple[str, str]] = Counter()
    responses: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    decided: Counter[str] = Counter()
    single: Counter[str] = Counter()
    buckets: dict[str, tuple[int, ...]] = {}
    for family in families:
        for sample in family.samples:
            name, value = sample.name, int(sample.value)
            match name:
                case "sidegate_requests_total":
                    outcomes[sample.labels["policy"], sample.labels["outcome"]] += value
                case "sidegate_responses_total":
                    responses[sample.labels["class"]] += value
                case "sidegate_errors_total":
                    errors[sample.labels["reason"]] += value
                case "sidegate_decisions_total":
                    decided[sample.labels["decided_by"]] += value
                case "sidegate_refusals_total" | "sidegate_upstream_errors_total":
                    single[name] += value
                case _:
                    continue
        if family.type == "histogram":
            rising = [int(each.value) for each in family.samples if each.name.endswith("_bucket")]
            buckets[family.name] = tuple(now - before for now, before in zip(rising, [0, *rising], strict=False))
    return Totals(
        +outcomes,
        +responses,
        +errors,
        +decided,
        single["sidegate_refusals_total"],
        single["sidegate_upstream_errors_total"],
        *(buckets.get(f"sidegate_{name}_seconds", _NO_COUNTS) for name in _HISTOGRAMS),
    )


def quantiles_ms(counts: Sequence[int]) -> dict[str, float | None]:
    """`p50` and `p99` in milliseconds, estimated from counts per bucket; None without values."""
    found = {"p50": quantile(counts, 0.5), "p99": quantile(counts, 0.99)}
    return {name: None if value_s is None else round(value_s * 1000, 3) for name, value_s in found.items()}


K = TypeVar("K")


def _joined(counts: Counter[K], other: Counter[K], sign: int) -> Counter[K]:
    """Sum or difference of two counters without entries that are not positive."""
    found = counts.copy()
    (found.update if sign > 0 else found.subtract)(other)
    return +found


def _per_bucket(counts: tuple[int, ...], other: tuple[int, ...], sign: int) -> tuple[int, ...]:
    return tuple(max(0, mine + sign * theirs) for mine, theirs in zip(counts, other, strict=True))
