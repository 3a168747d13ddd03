"""The overview: figures of requests, condition of each part, and all problems as sentences.

Dashboard, `sidegate top` and `sidegate status` show this document.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

import sidegate
from sidegate.admin.application_probe import ApplicationFault, ApplicationProbe
from sidegate.admin.conditions import ConditionHistory, application_condition, store_condition
from sidegate.admin.overview_types import OverviewDocument
from sidegate.admin.problems import ProblemHistory, problems
from sidegate.admin.workers_view import WorkersView
from sidegate.decision.policy import PolicySet
from sidegate.decision.verdict import DecisionSource
from sidegate.telemetry.totals import Totals, quantiles_ms

DEFAULT_WINDOW_S = 10
MOST_MARKS = 100
# Without requests, the application is checked by a connection this often; while it is down, every second.
IDLE_CHECK_EVERY_S = 5
# The probe itself keeps to `upstream.health.interval`.
HEALTH_LOOK_EVERY_S = 0.5


class Overview:
    """Follows the sidecar second by second."""

    def __init__(
        self,
        view: WorkersView,
        probe: ApplicationProbe,
        policies: Callable[[], PolicySet],
    ) -> None:
        self._view = view
        self._probe = probe
        self._policies = policies
        self._application_fault: ApplicationFault | None = None
        self.started = now_text()
        self._application = ConditionHistory(self.started)
        self._store = ConditionHistory(self.started)
        self._problems = ProblemHistory()
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
            if self._probe.has_path:
                pass  # see watch_health
            elif sum(last.application_counts) > failed:  # an answer proves that the application runs
                self._application_fault, unchecked_s = None, 0
            elif failed or self._application_fault is not None or unchecked_s >= IDLE_CHECK_EVERY_S:
                self._application_fault, unchecked_s = await self._probe.fault(), 0
            self._judge(self._view.state(), datetime.fromtimestamp(cast("float", second["time"]), UTC))

    async def watch_health(self) -> None:
        """Ask the application for its health at each `upstream.health.interval`. Runs until cancelled."""
        while self._probe.has_path:
            self._application_fault = await self._probe.fault()
            await asyncio.sleep(HEALTH_LOOK_EVERY_S)

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
            "problem": next(iter(self._problems.documents), None),
            "problems": self._problems.documents,
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
        if self._application.update(application_condition(window, self._application_fault, state["waiting"]), text):
            condition = self._application.condition
            self._mark("application", _change("Application", condition.state, condition.reason), text)
        if self._store.update(store_condition(state["store"]), text):
            condition = self._store.condition
            self._mark("store", _change("Store", condition.state, condition.reason), text)
        modes = {each.on_store_failure for each in self._policies().policies if not each.exempt and not each.shadow}
        self._problems.update(problems(self._application, self._store, state, window, modes), text)
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


def _without_store(window: Totals) -> dict[str, int]:
    """Requests that were decided without the store: answered 503, by this proxy's share, forwarded unchecked."""
    denied = window.errors["store_unavailable"]
    allowed = max(0, window.decided[DecisionSource.STORE_FAILURE] - denied)
    return {"denied": denied, "local": window.decided[DecisionSource.LOCAL], "allowed": allowed}


def _change(part: str, state: str, reason: str) -> str:
    return f"{part} {state}" + (f": {reason}" if reason else "")


def _share(count: int, window: Totals) -> float | None:
    return round(count / window.requests, 4) if window.requests else None


def now_text() -> str:
    """The current time in ISO 8601, UTC, in whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
