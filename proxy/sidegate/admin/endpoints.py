"""The admin API as a table: path, input model, response type, handler. Listener and OpenAPI document both read it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from aiohttp import web
from pydantic import BaseModel

from sidegate.admin.bucket_pages import BucketPages
from sidegate.admin.events import EventStream
from sidegate.admin.explain_page import Explainer
from sidegate.admin.fleet_view import FleetView
from sidegate.admin.overview import Overview
from sidegate.admin.overview_types import FleetDocument, OverviewDocument
from sidegate.admin.refusal_types import RefusalsDocument
from sidegate.admin.request_models import (
    ExplainRequest,
    FindBuckets,
    FleetQuery,
    NoInput,
    OneBucket,
    RefusalsQuery,
    TimelineQuery,
    TopQuery,
    WindowQuery,
)
from sidegate.admin.response_types import (
    BucketDocument,
    BucketsDocument,
    ConfigDocument,
    ExplainDocument,
    HealthDocument,
    LivenessPage,
    PoliciesDocument,
    PolicyDocument,
    ResetDocument,
    TimelineDocument,
    TopDocument,
)
from sidegate.admin.responses import json_answer
from sidegate.admin.workers_view import WorkersView

Source = Literal["none", "query", "path", "body"]


@dataclass(frozen=True, slots=True)
class AdminPages:
    """The objects that build the pages. `policies` takes the length of a window in seconds."""

    health: Callable[[], Awaitable[tuple[int, HealthDocument]]]
    config: Callable[[], ConfigDocument]
    policies: Callable[[int], list[PolicyDocument]]
    view: WorkersView
    overview: Overview
    fleet: FleetView
    explainer: Explainer
    buckets: BucketPages
    events: EventStream


Respond = Callable[[AdminPages, Any], Awaitable[tuple[int, object]]]


@dataclass(frozen=True, slots=True)
class AdminEndpoint:
    """One operation that answers JSON. `statuses`: those of `response`; `problems`: those of problem+json."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    summary: str
    response: Any  # a TypedDict, or dict
    respond: Respond
    problems: str = ""
    statuses: tuple[int, ...] = (200,)
    input: type[BaseModel] = NoInput
    source: Source = "none"
    is_open: bool = False


async def _live(_: AdminPages, __: NoInput) -> tuple[int, LivenessPage]:
    return 200, {"status": "ok"}


async def _ready(pages: AdminPages, _: NoInput) -> tuple[int, HealthDocument]:
    return await pages.health()


async def _overview(pages: AdminPages, query: WindowQuery) -> tuple[int, OverviewDocument]:
    return 200, pages.overview.document(query.seconds)


async def _fleet(pages: AdminPages, query: FleetQuery) -> tuple[int, FleetDocument]:
    window = WindowQuery()
    return 200, await pages.fleet.document(query.peers, window.window, window.seconds)


async def _config(pages: AdminPages, _: NoInput) -> tuple[int, ConfigDocument]:
    return 200, pages.config()


async def _policies(pages: AdminPages, query: WindowQuery) -> tuple[int, PoliciesDocument]:
    return 200, {"policies": pages.policies(query.seconds)}


async def _find(pages: AdminPages, query: FindBuckets) -> tuple[int, BucketsDocument]:
    return 200, await pages.buckets.find(query)


async def _show(pages: AdminPages, at: OneBucket) -> tuple[int, BucketDocument]:
    return 200, await pages.buckets.show(at)


async def _reset(pages: AdminPages, at: OneBucket) -> tuple[int, ResetDocument]:
    return 200, await pages.buckets.reset(at)


async def _explain(pages: AdminPages, request: ExplainRequest) -> tuple[int, ExplainDocument]:
    return 200, await pages.explainer.explain(request)


async def _top(pages: AdminPages, query: TopQuery) -> tuple[int, TopDocument]:
    return 200, cast("TopDocument", pages.view.top(query.limit))


async def _refusals(pages: AdminPages, query: RefusalsQuery) -> tuple[int, RefusalsDocument]:
    return 200, cast("RefusalsDocument", pages.view.refusals(query.after))


async def _timeline(pages: AdminPages, query: TimelineQuery) -> tuple[int, TimelineDocument]:
    return 200, pages.events.page(query.seconds)


ENDPOINTS: Sequence[AdminEndpoint] = (
    AdminEndpoint("GET", "/livez", "Whether the process runs.", LivenessPage, _live, is_open=True),
    AdminEndpoint(
        "GET", "/readyz", "Whether the sidecar should receive traffic, by part.", HealthDocument, _ready,
        statuses=(200, 503), is_open=True,
    ),
    AdminEndpoint(
        "GET", "/overview", "Figures of requests, condition of each part, the most urgent problem; over all workers.",
        OverviewDocument, _overview, "400 401", input=WindowQuery, source="query",
    ),
    AdminEndpoint(
        "GET", "/fleet", "The overviews of this sidecar and of its peers.", FleetDocument, _fleet, "400 401",
        input=FleetQuery, source="query",
    ),
    AdminEndpoint(
        "GET", "/config", "The active configuration (secrets masked), its hash, and the faults of the last edit.",
        ConfigDocument, _config, "401",
    ),
    AdminEndpoint(
        "GET", "/policies", "Every policy with its decisions since the start and its requests of the window.",
        PoliciesDocument, _policies, "400 401", input=WindowQuery, source="query",
    ),
    AdminEndpoint(
        "GET", "/buckets", "Buckets in the store. A page may be empty although more follow at its cursor.",
        BucketsDocument, _find, "400 401 404 503", input=FindBuckets, source="query",
    ),
    AdminEndpoint(
        "GET", "/buckets/{policy}/{key}", "The present level of one bucket and when it rises. Takes no token.",
        BucketDocument, _show, "400 401 404 503", input=OneBucket, source="path",
    ),
    AdminEndpoint(
        "DELETE", "/buckets/{policy}/{key}",
        "Delete a bucket, so that its key starts with a new one. Effective here at once, in other sidecars within a "
        "second; local buckets of other sidecars are not reset.",
        ResetDocument, _reset, "400 401 403 404 503", input=OneBucket, source="path",
    ),
    AdminEndpoint(
        "POST", "/explain", "Which policies apply to a request, and why the others do not. Charges nothing.",
        ExplainDocument, _explain, "400 401 403 413 415", input=ExplainRequest, source="body",
    ),
    AdminEndpoint(
        "GET", "/top", "The keys refused most in the last minutes. `count` may be too high by `error`.",
        TopDocument, _top, "400 401", input=TopQuery, source="query",
    ),
    AdminEndpoint(
        "GET", "/refusals", "The last refusals, by bucket and second, oldest first; at most 1,000.", RefusalsDocument,
        _refusals, "400 401", input=RefusalsQuery, source="query",
    ),
    AdminEndpoint(
        "GET", "/timeline", "The last seconds, oldest first, and the present state.", TimelineDocument, _timeline,
        "400 401", input=TimelineQuery, source="query",
    ),
)  # fmt: skip


async def respond(endpoint: AdminEndpoint, pages: AdminPages, given: BaseModel) -> web.Response:
    """The endpoint's answer to a validated request."""
    status, content = await endpoint.respond(pages, given)
    return json_answer(content, status)
