"""The overview: figures of requests, condition of each part, and the most urgent problem as a sentence.

Dashboard, `sidegate top` and `sidegate status` show this document.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

import sidegate
from sidegate.admin.conditions import ConditionHistory, application_condition, store_condition
from sidegate.admin.response_types import ConfigState, OverviewDocument, ProblemDocument
from sidegate.admin.workers_view import WorkersView
from sidegate.decision.policy import OnStoreFailure, PolicySet
from sidegate.decision.verdict import DecisionSource
from sidegate.telemetry.totals import Totals, quantiles_ms

DEFAULT_WINDOW_S = 10
MOST_MARKS = 100
# Workers report once a second, and the parent passes reports on within another.
SILENT_S = 5
# Without requests, the application is checked by a connection this often; while it is down, every second.
IDLE_CHECK_EVERY_S = 5
_UNKNOWN_SHARES = (
    "The proxies were never counted: set store.replicas before an edit to `local`, which would divide each limit by "
    "this sidecar's workers alone."
)
_EFFECTS = {
    OnStoreFailure.DENY: "policies with on_failure: deny answer 503",
    OnStoreFailure.LOCAL: "policies with on_failure: local enforce this proxy's share",
    OnStoreFailure.ALLOW: "policies with on_failure: allow let every request pass",
}


class Overview:
    """Follows the sidecar second by second. `application_fault` connects to the application (health)."""

    def __init__(
        self,
        view: WorkersView,
        application_fault: Callable[[], Awaitable[str | None]],
        policies: Callable[[], PolicySet],
    ) -> None:
        self._view = view
        self._application_fault = application_fault
        self._policies = policies
        self._connect_fault: str | None = None
        self.started = now_text()
        self._application = ConditionHistory(self.started)
        self._store = ConditionHistory(self.started)
        self._config: Mapping[str, Any] = {}
        self._pids: dict[int, object] = {}
        self.marks: deque[dict[str, str]] = deque(maxlen=MOST_MARKS)
        self._mark("restart", "Sidecar started")

    async def watch(self) -> None:
        """Judge the parts once a second. Runs until cancelled."""
        unchecked_s = IDLE_CHECK_EVERY_S
        while True:
            second = await self._view.timeline.next()
            last = self._view.timeline.window(1)
            failed = sum(count for reason, count in last.errors.items() if reason.startswith("upstream_"))
            unchecked_s += 1
            if sum(last.application_counts) > failed:  # an answer proves that the application runs
                self._connect_fault, unchecked_s = None, 0
            elif failed or self._connect_fault is not None or unchecked_s >= IDLE_CHECK_EVERY_S:
                self._connect_fault, unchecked_s = await self._application_fault(), 0
            self._judge(self._view.state(), datetime.fromtimestamp(cast("float", second["time"]), UTC))

    def document(self, window_s: int = DEFAULT_WINDOW_S) -> OverviewDocument:
        """Figures of the last `window_s` seconds."""
        state, window = self._view.state(), self._view.timeline.window(window_s)
        length_s = max(1, min(window_s, self._view.timeline.length_s))
        return {
            "requests_per_s": round(window.requests / length_s, 2),
            "refused_share": _share(window.refused, window),
            "responses": {
                "2xx": _share(window.responses["2xx"], window),
                "4xx": _share(window.responses["4xx"], window),
                "429": _share(window.responses["429"], window),
                "5xx": _share(window.responses["5xx"], window),
            },
            "latency_ms": {
                "total": quantiles_ms(window.request_counts),  # type: ignore[typeddict-item]
                "application": quantiles_ms(window.application_counts),  # type: ignore[typeddict-item]
                "store": quantiles_ms(window.store_counts),  # type: ignore[typeddict-item]
            },
            "in_flight": state["in_flight"],
            "application": {
                "state": self._application.condition.state,  # type: ignore[typeddict-item]
                "reason": self._application.condition.reason or None,
                "since": self._application.since,
            },
            "store": {
                "state": self._store.condition.state,  # type: ignore[typeddict-item]
                "reason": self._store.condition.reason or None,
                "since": self._store.since,
                "breakers": state["store"]["breakers"],
                "without_store_per_s": {
                    effect: round(count / length_s, 2) for effect, count in _without_store(window).items() if count
                },
            },
            "config": state["config"],
            "problem": self._problem(state, window),
        }

    def live_state(self) -> dict[str, object]:
        """What the dashboard receives each second beside the second itself."""
        state = self._view.state()
        return {
            **state,
            **self._view.top(10),
            "overview": self.document(),
            "marks": list(self.marks),
            "sidecar": {"version": sidegate.__version__, "started": self.started},
        }

    def _judge(self, state: Mapping[str, Any], now: datetime) -> None:
        text = now.isoformat(timespec="seconds").replace("+00:00", "Z")
        window = self._view.timeline.window(DEFAULT_WINDOW_S)
        if self._application.update(application_condition(window, self._connect_fault, state["waiting"]), text):
            condition = self._application.condition
            self._mark("application", _change("Application", condition.state, condition.reason), text)
        if self._store.update(store_condition(state["store"]), text):
            condition = self._store.condition
            self._mark("store", _change("Store", condition.state, condition.reason), text)
        self._mark_changes(state, text)

    def _mark_changes(self, state: Mapping[str, Any], now: str) -> None:
        before, self._config = self._config, state["config"]
        if before and before["loaded"] != self._config["loaded"]:
            self._mark("reload", f"Configuration reloaded ({self._config['hash']})", now)
        elif before and before["status"] == "ok" and self._config["status"] == "stale":
            self._mark("reload", "Edit of the configuration refused", now)
        for worker in state.get("workers", ()):
            number, pid = worker["worker"], worker["pid"]
            if pid is not None and self._pids.get(number, pid) != pid:
                self._mark("restart", f"Worker {number} restarted", now)
            if pid is not None:
                self._pids[number] = pid

    def _mark(self, kind: str, text: str, time: str | None = None) -> None:
        self.marks.append({"time": time or now_text(), "kind": kind, "text": text})

    def _problem(self, state: Mapping[str, Any], window: Totals) -> ProblemDocument | None:
        """The most urgent problem; None if there is none."""
        application, reason = self._application.condition
        match application:
            case "down":
                text = f"The application accepts no connections ({reason}). Requests are answered 502 or 504. "
                text += "Start the application or correct upstream.url."
                return _problem(text, self._application.since, "the-application-is-down")
            case "failing":
                text = f"The application fails: {reason}. Look at the application's own log."
                return _problem(text, self._application.since, "the-application-fails-or-is-slow")
        if self._store.condition.state != "up":
            return _problem(self._store_text(state["store"]), self._store.since, "redis-is-down")
        if application == "slow":
            text = f"The application is slow: {reason}. Look at its load and at upstream.max_connections."
            return _problem(text, self._application.since, "the-application-fails-or-is-slow")
        config: ConfigState = state["config"]
        if config["status"] == "stale":
            fault = next(iter(config.get("faults", ())), "")
            text = f"The last edit of the configuration was refused ({fault}); the one before it stays active. "
            return _problem(text + "Correct the file.", config.get("since", ""), "an-edit-was-refused")
        for worker in state.get("workers", ()):
            if worker["heard_s"] is None or worker["heard_s"] > SILENT_S:
                text = f"Worker {worker['worker']} does not report. Its requests may hang; the log has worker_died."
                return _problem(text, now_text(), "a-worker-does-not-report")
        if unhandled := window.errors["internal"]:
            text = f"{unhandled} requests failed with an internal error of the sidecar. The log has the trace."
            return _problem(text, now_text(), "internal-errors")
        return None

    def _store_text(self, store: Mapping[str, Any]) -> str:
        state, reason = self._store.condition
        modes = {policy.on_store_failure for policy in self._policies().policies if not policy.exempt}
        effects = "; ".join(text for mode, text in _EFFECTS.items() if mode in modes) or "no policy needs it"
        what = "The store is not connected" if state == "down" else "The store does not answer in time or with errors"
        text = f"{what} ({reason}): {effects}. Start or repair the store; sidecars reconnect by themselves."
        return text if store["proxies"] else f"{text} {_UNKNOWN_SHARES}"


def _without_store(window: Totals) -> dict[str, int]:
    """Requests that were decided without the store: answered 503, by this proxy's share, forwarded unchecked."""
    denied = window.errors["store_unavailable"]
    allowed = max(0, window.decided[DecisionSource.STORE_FAILURE] - denied)
    return {"denied": denied, "local": window.decided[DecisionSource.LOCAL], "allowed": allowed}


def _problem(text: str, since: str, section: str) -> ProblemDocument:
    return {"text": text, "since": since, "runbook": f"/runbook#{section}"}


def _change(part: str, state: str, reason: str) -> str:
    return f"{part} {state}" + (f": {reason}" if reason else "")


def _share(count: int, window: Totals) -> float | None:
    return round(count / window.requests, 4) if window.requests else None


def now_text() -> str:
    """The current time in ISO 8601, UTC, in whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
