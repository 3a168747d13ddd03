"""The state that all client connections share: active rules, limiter, connection pool, observer."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sidegate.config import ListenSettings, Settings, UpstreamSettings
from sidegate.decision.policy import PolicySet
from sidegate.decision.reading import Reading
from sidegate.decision.record import Observe
from sidegate.decision.request import RequestFacts
from sidegate.decision.verdict import Decide
from sidegate.edge.abandoned import AbandonedRequests
from sidegate.edge.buffers import BufferBudget
from sidegate.edge.failed_handshakes import FailedHandshakes
from sidegate.edge.field_names import FieldNames, request_names
from sidegate.edge.pool import Pool, Spawn
from sidegate.edge.rate_limit_fields import RateLimitFields
from sidegate.edge.replies import RefusalReplies
from sidegate.edge.request_id import RequestIds
from sidegate.edge.rewrite import VIA
from sidegate.edge.tailored_replies import TailoredReplies, tailored_replies
from sidegate.edge.token_wait import WaitingRoom

# A page of the sidecar's own: its status and JSON content.
OwnPage = Callable[[RequestFacts], Awaitable[tuple[int, Mapping[str, object]]]]


@dataclass(frozen=True, slots=True)
class LiveRules:
    """Everything that a reload replaces, in one object. A request keeps the rules that it began under.

    Of `listen` and `upstream` only the settings that the model declares live are read here; what else a connection
    needs of them is in `Runtime.started`. `via` is the line of that field, or empty; `tailored` makes answers of our
    own where own pages or CORS are configured.
    """

    policies: PolicySet
    request_names: FieldNames
    rate_limit_fields: RateLimitFields
    refusals: RefusalReplies
    tailored: TailoredReplies | None
    refusal_status: int
    listen: ListenSettings
    upstream: UpstreamSettings
    via: bytes


def live_rules(settings: Settings, policies: PolicySet) -> LiveRules:
    """The rules of a configuration and its compiled policies."""
    wanted = settings.responses.headers
    fields = RateLimitFields(standard="ratelimit" in wanted, legacy="x-ratelimit" in wanted)
    return LiveRules(
        policies=policies,
        request_names=request_names(
            policies.fields, settings.listen.request_id_header, pass_underscores=settings.upstream.pass_underscores
        ),
        rate_limit_fields=fields,
        refusals=RefusalReplies(fields, settings.responses.status),
        tailored=tailored_replies(settings.responses, fields, settings.listen.request_id_header),
        refusal_status=settings.responses.status,
        listen=settings.listen,
        upstream=settings.upstream,
        via=VIA if settings.upstream.via else b"",
    )


class Listener(Protocol):
    """Registers all client connections of the process."""

    def admit(self, connection: Any) -> bool:
        """Register a new connection; False where there are as many as there may be."""

    def forget(self, connection: Any) -> None:
        """Remove a lost connection."""

    def lingers(self, connection: Any) -> None:
        """Mark a connection as lingering: it may be closed to make room."""

    @property
    def draining(self) -> bool:
        """Whether the sidecar is stopping."""


@dataclass(slots=True)
class Runtime:
    """One sidecar's data path. `live` is replaced by one assignment when the configuration changes.

    `started` holds the listener's settings of the start, `authority` the application's host and port, `pages` the
    sidecar's own pages by their path.
    """

    live: LiveRules
    decide: Decide
    observe: Observe
    pool: Pool
    spawn: Spawn
    started: ListenSettings
    authority: bytes
    pages: Mapping[str, OwnPage]
    buffers: BufferBudget
    scheme: bytes = b"http"  # of requests on this listener
    waiting: WaitingRoom = field(default_factory=WaitingRoom)
    failed_handshakes: FailedHandshakes = field(default_factory=FailedHandshakes)
    request_ids: RequestIds | None = None  # None: request ids are sent on like any other field

    # How the paths of its own pages begin: a quick look before a path is worked out.
    page_starts: tuple[str, ...] = field(init=False)
    abandoned: AbandonedRequests = field(init=False)

    def __post_init__(self) -> None:
        self.page_starts = tuple(self.pages)
        self.abandoned = AbandonedRequests(self.pool)

    def readings(self) -> Iterator[Reading]:
        """Metrics of requests that wait for tokens, of those without a client, and of handshakes."""
        yield from self.waiting.readings()
        yield from self.abandoned.readings()
        yield from self.failed_handshakes.readings()

    def close(self) -> None:
        """End the connections to the application, once no client is left."""
        self.pool.close()
        self.abandoned.close()
