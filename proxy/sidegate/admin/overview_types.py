"""Shapes of the overview and of the fleet, for the OpenAPI document and the type checker."""

from collections.abc import Mapping, Sequence
from typing import Literal

from typing_extensions import TypedDict

from sidegate.admin.response_types import ConfigState

ApplicationState = Literal["up", "slow", "failing", "down"]
StorePhase = Literal["up", "open", "down"]


class Quantiles(TypedDict):
    """Milliseconds; None without requests."""

    p50: float | None
    p99: float | None


class LatencyDocument(TypedDict):
    total: Quantiles
    application: Quantiles
    store: Quantiles


ResponseShares = TypedDict(
    "ResponseShares", {"2xx": float | None, "4xx": float | None, "429": float | None, "5xx": float | None}
)


class ApplicationCondition(TypedDict):
    state: ApplicationState
    reason: str | None
    since: str


class BreakerEntry(TypedDict):
    """`node` is None where one breaker stands before the whole store."""

    node: str | None
    state: Literal["closed", "open", "probing"]
    reason: str | None


class StoreCondition(TypedDict):
    """`open`: a breaker keeps requests from it. `without_store_per_s`: `denied`, `local` (share) or `allowed`."""

    state: StorePhase
    reason: str | None
    since: str
    breakers: Sequence[BreakerEntry]
    without_store_per_s: Mapping[str, float]


class ProblemDocument(TypedDict):
    """What is wrong and what to do; `runbook` is a path of this listener."""

    text: str
    since: str
    runbook: str


class OverviewDocument(TypedDict):
    """Figures of the window, over all workers. Shares are of requests, 0 to 1, None without requests.

    `refused_share` are requests that a policy answered 429; `responses["429"]` also counts those of the application.
    What is missing to 1 in `responses` are 1xx and 3xx. `problem` is the most urgent one of `problems`.
    """

    requests_per_s: float
    refused_share: float | None
    responses: ResponseShares
    latency_ms: LatencyDocument
    in_flight: int
    application: ApplicationCondition
    store: StoreCondition
    config: ConfigState
    problem: ProblemDocument | None
    problems: Sequence[ProblemDocument]


class FleetEntry(TypedDict):
    """One sidecar; `fault` says why there is no overview."""

    sidecar: str
    url: str | None
    overview: OverviewDocument | None
    fault: str | None


class FleetDocument(TypedDict):
    sidecars: Sequence[FleetEntry]
