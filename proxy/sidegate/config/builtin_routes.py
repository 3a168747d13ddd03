"""The routes that the sidecar answers itself, before any limit."""

from collections.abc import Collection

from sidegate.config.model import Settings
from sidegate.decision.request import RequestFacts, path_part


def builtin_routes(settings: Settings) -> frozenset[str]:
    """The paths of the health page and the status page."""
    return frozenset((settings.listen.health_path, settings.listen.status_path))


def is_builtin_route(facts: RequestFacts, routes: Collection[str]) -> bool:
    """Whether the sidecar answers the request itself, by the rule of edge/client."""
    return path_part(facts.target) in routes and facts.method in {"GET", "HEAD"}
