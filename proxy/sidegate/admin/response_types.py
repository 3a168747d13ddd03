"""Documents that the admin API returns. The OpenAPI document is generated from these types.

`TypedDict`s: mypy checks the code that builds them, and nothing is copied or validated at run time.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired

from typing_extensions import TypedDict


class LivenessPage(TypedDict):
    status: str


class PartHealth(TypedDict):
    status: Literal["ok", "down"]
    reason: NotRequired[str]


class ConfigState(TypedDict):
    """`since` and `faults` describe a refused edit, `needs_restart` settings of a valid one. Times: ISO 8601, UTC."""

    status: Literal["ok", "stale"]
    loaded: str
    since: NotRequired[str]
    faults: NotRequired[Sequence[str]]
    hash: NotRequired[str]
    needs_restart: NotRequired[Sequence[str]]


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
