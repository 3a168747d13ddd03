"""`POST /explain`: explains a request by the active configuration."""

from collections.abc import Awaitable, Callable, Sequence

from sidegate.admin.explain_document import as_json, levels_by_policy
from sidegate.admin.request_models import ExplainRequest
from sidegate.admin.response_types import ExplainDocument
from sidegate.config import Settings
from sidegate.config.builtin_routes import builtin_routes, is_builtin_route
from sidegate.decision.explanation import explain
from sidegate.decision.policy import PolicyMatch, PolicySet
from sidegate.decision.verdict import DecisionSource, Verdict

# Reads the levels of buckets without charging them.
Look = Callable[[Sequence[PolicyMatch]], Awaitable[Verdict]]


class Explainer:
    """Explains requests by the active configuration."""

    def __init__(self, settings: Callable[[], Settings], policies: Callable[[], PolicySet], look: Look) -> None:
        self._settings = settings
        self._policies = policies
        self._look = look

    async def explain(self, request: ExplainRequest) -> ExplainDocument:
        """The explanation, with the present levels of the buckets if `request.live`. Charges nothing."""
        settings, facts = self._settings(), request.facts
        own_page = is_builtin_route(facts, builtin_routes(settings))
        explanation = explain(self._policies(), facts)
        verdict: Verdict | None = None
        if request.live and not own_page and any(entry.charge for entry in explanation.applied):
            verdict = await self._look(explanation.applied)
        document = as_json(explanation, settings, levels_by_policy(verdict), own_page=own_page)
        if verdict is not None and verdict.decided_by is DecisionSource.STORE_FAILURE:
            document["live_error"] = verdict.reason
        return document
