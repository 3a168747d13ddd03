"""Documents that the admin API returns. The OpenAPI document is generated from these types.

`TypedDict`s: mypy checks the code that builds them, and nothing is copied or validated at run time.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired

from typing_extensions import TypedDict

ApplicationState = Literal["up", "slow", "failing", "down"]
StorePhase = Literal["up", "open", "down"]


class LivenessPage(TypedDict):
    status: str


class PartHealth(TypedDict):
    status: Literal["ok", "down"]
    reason: NotRequired[str]


class ConfigState(TypedDict):
    """`since` and `faults` describe a refused edit. Times are ISO 8601, UTC."""

    status: Literal["ok", "stale"]
    loaded: str
    since: NotRequired[str]
    faults: NotRequired[Sequence[str]]
    hash: NotRequired[str]


class HealthDocument(TypedDict):
    status: Literal["ok", "degraded", "down", "draining"]
    app: PartHealth
    store: PartHealth
    config: ConfigState


class WorkerConfig(ConfigState):
    worker: int


class ConfigDocument(TypedDict):
    hash: str
    status: Literal["ok", "stale"]
    loaded: str
    since: NotRequired[str]
    faults: NotRequired[Sequence[str]]
    needs_restart: Sequence[str]
    origins: Mapping[str, str]
    workers: NotRequired[Sequence[WorkerConfig]]
    settings: Mapping[str, object]


class LimitDocument(TypedDict):
    """`tokens` are added every `period_us` microseconds, up to `burst`; a new bucket holds `initial`.

    Of a policy that counts requests under way, `in_flight` alone: the most of them.
    """

    tokens: NotRequired[int]
    period_us: NotRequired[int]
    burst: NotRequired[int]
    initial: NotRequired[int]
    in_flight: NotRequired[int]


class RecentRequests(TypedDict):
    """Requests of a window that a policy matched; `refused_share` is of `matched`, None without requests."""

    window_s: int
    matched: int
    refused: int
    shadow_refused: int
    refused_share: float | None


class LimitingPolicy(TypedDict):
    """Members of a policy that is not exempt. `under_way`: requests of this sidecar, where the policy counts them."""

    key: NotRequired[object]
    limit: NotRequired[object]
    limit_text: NotRequired[str]
    tokens: NotRequired[int]
    period_us: NotRequired[int]
    burst: NotRequired[int]
    initial: NotRequired[int]
    in_flight: NotRequired[int]
    under_way: NotRequired[int]
    on_store_failure: NotRequired[str]


class PolicyDocument(LimitingPolicy):
    """`removed` policies are no longer in the configuration but have requests in the window."""

    name: str
    exempt: bool
    shadow: bool
    removed: bool
    match: Mapping[str, object]
    overrides: int
    outcomes: Mapping[str, int]
    recent: RecentRequests


class PoliciesDocument(TypedDict):
    policies: Sequence[PolicyDocument]


class BucketEntry(TypedDict):
    bucket: str
    policy: str | None
    key: str | None
    tokens_at_last_charge: int | None
    in_flight: int | None
    ttl_s: float | None


class BucketsDocument(TypedDict):
    buckets: Sequence[BucketEntry]
    cursor: str | None


class BucketDocument(TypedDict):
    """Blocked and exempt keys have no bucket, so nothing after `stored`."""

    policy: str
    key: str
    bucket: str
    shadow: bool
    rule: Literal["limit", "override", "blocked", "exempt"]
    stored: bool
    limit: NotRequired[LimitDocument]
    ttl_s: NotRequired[float | None]
    in_flight: NotRequired[int]
    tokens: NotRequired[int]
    next_token_s: NotRequired[float | None]
    full_s: NotRequired[float]


class ResetDocument(TypedDict):
    """`reset`: the store had the bucket. `local`: this sidecar held one. `store_error`: why the store was not reset."""

    policy: str
    key: str
    bucket: str
    reset: bool
    local: bool
    store_error: str | None


class LiveLevel(TypedDict):
    tokens: int
    enough: bool
    retry_s: float
    full_s: float


class ExplainedPolicy(TypedDict):
    name: str
    part: str
    shadow: bool
    condition: NotRequired[str]
    found: NotRequired[str | None]
    wanted: NotRequired[Sequence[str]]
    matched_paths: NotRequired[Sequence[str]]
    key: NotRequired[str]
    bucket: NotRequired[str]
    cost: NotRequired[int]
    override: NotRequired[bool]
    limit: NotRequired[LimitDocument]
    settle: NotRequired[str]
    live: NotRequired[LiveLevel]


class ExplainDocument(TypedDict):
    method: str
    target: str
    paths: Sequence[str]
    peer: str
    client: str
    client_group: str
    result: Literal["own_page", "bad_request", "exempt", "blocked", "unlimited", "limited"]
    bad_request: str | None
    policies: Sequence[ExplainedPolicy]
    live_error: NotRequired[str]


class RefusedKey(TypedDict):
    """`count` may be too high by `error`."""

    policy: str
    key: str
    bucket: str
    count: int
    error: int


class TopDocument(TypedDict):
    minutes: int
    refused: Sequence[RefusedKey]


class SecondDocument(TypedDict):
    time: float
    requests: int
    responses: Mapping[str, int]
    refused: int
    latency: Sequence[int]
    policies: Mapping[str, Mapping[str, int]]
    store_calls: int
    store_ms: float | None


class TimelineDocument(TypedDict):
    seconds: Sequence[SecondDocument]
    state: Mapping[str, object]


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
