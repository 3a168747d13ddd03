"""Receives every request record and store call, and passes each to metrics, request log, top keys and tracing."""

from collections.abc import Callable

from sidegate.config import LogSettings, TracingSettings
from sidegate.decision.policy import PolicySet
from sidegate.decision.record import Observe, ObserveStore, Record
from sidegate.decision.verdict import Answer
from sidegate.telemetry.logs import LogLines
from sidegate.telemetry.metrics import Metrics
from sidegate.telemetry.outcomes import refused_buckets
from sidegate.telemetry.recent_refusals import RecentRefusals
from sidegate.telemetry.request_log import RequestLog
from sidegate.telemetry.top_refused import TopRefused

_REFUSE = Answer.REFUSE


class Observer:
    """Telemetry of one worker. `policies` returns the active policies. Call `each_second`, and `close` at the end.

    `observe` and `observe_store` are the functions that the edge and the store call.
    """

    def __init__(
        self,
        log_settings: LogSettings,
        tracing_settings: TracingSettings,
        log: LogLines,
        metrics: Metrics,
        policies: Callable[[], PolicySet],
    ) -> None:
        self.metrics = metrics
        self.log = RequestLog(log_settings, log, policies)
        self.top_refused = TopRefused(policies)
        self.recent_refusals = RecentRefusals(policies)
        self._policies = policies
        self.observe: Observe = self._observe
        self.observe_store: ObserveStore = metrics.count_call
        self._close: Callable[[], None] | None = None
        if tracing_settings.endpoint:
            from sidegate.telemetry.tracing import Tracing  # noqa: PLC0415  (its packages are an extra)

            tracing = Tracing(tracing_settings, policies, metrics.exemplify)
            self.observe = tracing.requests(self._observe)
            self.observe_store = tracing.store_calls(metrics.count_call)
            self._close = tracing.close

    def each_second(self) -> None:
        """Write the lines of the last second and advance the window of the keys refused most."""
        self.log.each_second()
        self.top_refused.each_second()
        self.recent_refusals.each_second()

    def close(self) -> None:
        """Write and send what is left. Blocks for a few seconds at most: call it in a thread."""
        self.log.each_second()
        if self._close is not None:
            self._close()

    def _observe(self, record: Record) -> None:
        self.metrics.count(record)
        verdict = record.verdict
        if verdict is None or verdict.answer is not _REFUSE:
            self.log.note(record)
        else:
            refused = refused_buckets(record, self._policies())
            self.top_refused.note(refused)
            self.recent_refusals.note(record, refused)
            self.log.note(record, refused)
