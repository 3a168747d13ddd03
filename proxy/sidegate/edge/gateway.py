"""What all connections share: the rules in force, and the ways to the store, the application and the record."""

from dataclasses import dataclass

from sidegate.config import ListenSettings, UpstreamSettings
from sidegate.decision.policy import PolicySet
from sidegate.decision.record import Observe
from sidegate.decision.verdict import Decide
from sidegate.edge.headers import Forwarding, RateLimitFields
from sidegate.edge.pool import Pool, Spawn
from sidegate.edge.replies import RefusalReplies
from sidegate.edge.request_id import RequestIds


@dataclass(slots=True)
class Gateway:
    """Policies, settings and what is made of them are replaced as a whole when the configuration changes."""

    policies: PolicySet
    decide: Decide
    observe: Observe
    pool: Pool
    forwarding: Forwarding
    rate_limit_fields: RateLimitFields
    refusals: RefusalReplies
    spawn: Spawn
    listen: ListenSettings
    upstream: UpstreamSettings
    request_ids: RequestIds | None = None  # None: the ids of requests are passed on like any field
