"""Problems of a sidecar as sentences: what is wrong, since when, what to do, and the section of the runbook.

Pure but for the times that it is given. Dashboard, `sidegate top` and `sidegate status` show all of them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sidegate.admin.conditions import Condition, ConditionHistory
from sidegate.admin.overview_types import ProblemDocument
from sidegate.admin.response_types import ConfigState
from sidegate.decision.policy import OnStoreFailure
from sidegate.telemetry.totals import Totals

# Workers report once a second, and the parent passes reports on within another.
SILENT_S = 5
_UNKNOWN_SHARES = (
    "The proxies were never counted: set store.replicas before an edit to `local`, which would divide each limit by "
    "this sidecar's workers alone."
)
_EFFECTS = {
    OnStoreFailure.DENY: "policies with on_failure: deny answer 503",
    OnStoreFailure.LOCAL: "policies with on_failure: local enforce this proxy's share",
    OnStoreFailure.ALLOW: "policies with on_failure: allow let every request pass",
}


class PresentProblem(NamedTuple):
    """One problem. `section` is its heading's anchor in the runbook; `part` tells apart problems of one section.

    `since` is empty where nothing but this problem knows its beginning.
    """

    section: str
    text: str
    since: str = ""
    part: str = ""


class ProblemHistory:
    """The present problems, most urgent first, each with its beginning."""

    def __init__(self) -> None:
        self._since: Mapping[tuple[str, str], str] = {}
        self.documents: list[ProblemDocument] = []

    def update(self, present: Iterable[PresentProblem], now: str) -> None:
        """Take the problems of this second; `now` in ISO 8601, UTC."""
        found = [(each, each.since or self._since.get((each.section, each.part), now)) for each in present]
        self._since = {(each.section, each.part): since for each, since in found}
        self.documents = [
            {"text": each.text, "since": since, "runbook": f"/runbook#{each.section}"} for each, since in found
        ]


def problems(
    application: ConditionHistory,
    store: ConditionHistory,
    state: Mapping[str, Any],
    window: Totals,
    modes: Collection[OnStoreFailure],
) -> Iterator[PresentProblem]:
    """All problems, most urgent first. `modes`: the failure modes of the policies that limit requests."""
    is_slow = application.condition.state == "slow"
    if not is_slow:
        yield from _of_application(application)
    if store.condition.state != "up":
        text = _store_text(store.condition, state["store"], modes)
        yield PresentProblem("redis-is-down", text, store.since)
    if is_slow:
        yield from _of_application(application)
    config: ConfigState = state["config"]
    if config["status"] == "stale":
        fault = next(iter(config.get("faults", ())), "")
        text = f"The last edit of the configuration was refused ({fault}); the one before it stays active. "
        yield PresentProblem("an-edit-was-refused", f"{text}Correct the file.", config.get("since", ""))
    for worker in state.get("workers", ()):
        number, heard_s = worker["worker"], worker["heard_s"]
        if heard_s is None:
            text = f"Worker {number} is not running. It is started again after a pause; the log has worker_died."
            yield PresentProblem("a-worker-does-not-report", text, part=str(number))
        elif heard_s > SILENT_S:
            text = f"Worker {number} does not report. Its requests hang until it is replaced; the log has worker_hung."
            yield PresentProblem("a-worker-does-not-report", text, part=str(number))
    if unhandled := window.errors["internal"]:
        text = f"{unhandled} requests failed with an internal error of the sidecar. The log has the trace."
        yield PresentProblem("internal-errors", text)


def _of_application(application: ConditionHistory) -> Iterator[PresentProblem]:
    section, (state, reason) = "the-application-fails-or-is-slow", application.condition
    match state:
        case "down":
            section = "the-application-is-down"
            text = f"The application is down ({reason}). Forwarded requests are answered 502 or 504. "
            text += "Start the application or correct upstream.url."
        case "failing":
            text = f"The application fails: {reason}. Look at the application's own log."
        case "slow":
            text = f"The application is slow: {reason}. Look at its load and at upstream.max_connections."
        case _:
            return
    yield PresentProblem(section, text, application.since)


def _store_text(condition: Condition, store: Mapping[str, Any], modes: Collection[OnStoreFailure]) -> str:
    effects = "; ".join(text for mode, text in _EFFECTS.items() if mode in modes) or "no policy needs it"
    is_down = condition.state == "down"
    what = "The store is not connected" if is_down else "The store does not answer in time or with errors"
    text = f"{what} ({condition.reason}). Effect: {effects}. To do: {store['advice'] or 'see its log'}; sidecars "
    text += "reconnect by themselves."
    return text if store["proxies"] else f"{text} {_UNKNOWN_SHARES}"
