"""The pages that the sidecar answers itself, before any limit."""

from collections.abc import Collection

from sidegate.config.model import Settings
from sidegate.decision.request import RequestFacts, path_part


def own_pages(settings: Settings) -> frozenset[str]:
    """Their paths."""
    return frozenset((settings.listen.health_path, settings.listen.status_path))


def is_own_page(facts: RequestFacts, pages: Collection[str]) -> bool:
    """Whether the sidecar answers the request itself, as edge/client decides it."""
    return path_part(facts.target) in pages and facts.method in {"GET", "HEAD"}
