"""What all connections share: the rules in force, and the ways to the store, the application and the record."""

from dataclasses import dataclass

from proxy.config import ListenSettings, UpstreamSettings
from proxy.decision.policy import PolicySet
from proxy.decision.record import Observe
from proxy.decision.verdict import Decide
from proxy.edge.headers import Forwarding, RateLimitFields
from proxy.edge.pool import Pool, Spawn
from proxy.edge.replies import RefusalReplies
from proxy.edge.request_id import RequestIds


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
