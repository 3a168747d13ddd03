"""Spans of requests and store calls, sent to an OpenTelemetry collector. Imported only where `tracing` is configured.

A span is created from the finished record with given start and end times, so that a running request carries no tracing
state. A thread of the OpenTelemetry SDK sends spans in batches and drops those that exceed its queue. Names follow
OpenTelemetry's semantic conventions for HTTP servers and database clients; own attributes begin with `sidegate.`.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, StatusCode, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import sidegate
from sidegate.config import TracingSettings
from sidegate.decision.policy import PolicySet
from sidegate.decision.record import Observe, ObserveStore, Record, StoreCall
from sidegate.decision.request import RequestFacts, path_part
from sidegate.telemetry.escaping import utf8_safe
from sidegate.telemetry.outcomes import policy_outcomes
from sidegate.telemetry.request_log import LONGEST_METHOD_CHARS, LONGEST_PATH_CHARS

# Bounds sending one batch, and sending the rest at the end, so that a hanging collector does not delay the stop.
EXPORT_TIMEOUT_S = 2.0
CLOSE_TIMEOUT_S = 3.0

# Methods that the conventions name; others are `_OTHER`, so that clients cannot invent span names.
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
_TRACE_CONTEXT = ("traceparent", "tracestate")

Attributes = dict[str, str | int | float | Sequence[str]]


class Tracing:
    """Creates and sends spans. `policies` returns the active policies. Call `close` at the end.

    `on_span` receives the trace id and the duration in seconds of each request that has a span.
    """

    def __init__(
        self, settings: TracingSettings, policies: Callable[[], PolicySet], on_span: Callable[[str, float], None]
    ) -> None:
        service = {
            "service.name": os.environ.get("OTEL_SERVICE_NAME", "sidegate"),
            "service.version": sidegate.__version__,
        }
        self._provider = TracerProvider(
            sampler=ParentBased(ALWAYS_ON),  # new traces are sampled before a span is created
            resource=Resource.create(service),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=settings.endpoint, timeout=EXPORT_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("sidegate", sidegate.__version__)
        self._propagator = TraceContextTextMapPropagator()
        self._policies = policies
        self._sample = settings.sample
        self._on_span = on_span

    def requests(self, observe: Observe) -> Observe:
        """A function that calls `observe` and creates a span for each record."""

        def both(record: Record) -> None:
            observe(record)
            self._note(record)

        return both

    def store_calls(self, observe: ObserveStore) -> ObserveStore:
        """A function that calls `observe` and creates a span for each store call.

        The span belongs to no request's trace, since one call decides many requests.
        """

        def both(call: StoreCall) -> None:
            observe(call)
            self._note_call(call)

        return both

    def close(self) -> None:
        """Send queued spans, for at most CLOSE_TIMEOUT_S. Blocks: call it in a thread."""
        sending = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)
        sending.start()
        sending.join(CLOSE_TIMEOUT_S)

    def _note(self, record: Record) -> None:
        parent = self._parent(record.facts)
        if parent is None and self._left_out():
            return
        method = record.facts.method if record.facts.method in _METHODS else "_OTHER"
        name = "HTTP" if method == "_OTHER" else method
        attributes = self._about(record, method)
        failed = record.status >= 500  # by the conventions, a 4xx is no error of the server
        if failed or record.error:
            attributes["error.type"] = record.error or str(record.status)
        trace_id = self._span(name, SpanKind.SERVER, parent or Context(), attributes, record.total_s, failed=failed)
        if trace_id:
            self._on_span(trace_id, record.total_s)

    def _note_call(self, call: StoreCall) -> None:
        if self._left_out():
            return
        attributes: Attributes = {"db.system.name": "redis", "db.operation.name": "EVALSHA"}
        if call.requests > 1:  # required by the conventions only for batches
            attributes["db.operation.batch.size"] = call.requests
        if call.failure:
            attributes["error.type"] = call.failure
        _ = self._span("EVALSHA", SpanKind.CLIENT, Context(), attributes, call.took_s, failed=bool(call.failure))

    def _about(self, record: Record, method: str) -> Attributes:
        facts, verdict = record.facts, record.verdict
        attributes: Attributes = {
            "http.request.method": method,
            "http.response.status_code": record.status,
            "url.scheme": "http",
            "url.path": utf8_safe(path_part(facts.target)[:LONGEST_PATH_CHARS]),
            "client.address": self._policies().identity.client_group(facts),
            "sidegate.decision_ms": round(record.decision_s * 1000, 3),
        }
        if method == "_OTHER":
            attributes["http.request.method_original"] = utf8_safe(facts.method[:LONGEST_METHOD_CHARS])
        if record.request_id:
            attributes["sidegate.request_id"] = record.request_id
        if verdict is not None:
            attributes["sidegate.decided_by"] = verdict.decided_by.value
            if verdict.applied:
                outcomes = policy_outcomes(verdict)
                attributes["sidegate.policies"] = [name for name, _ in outcomes]
                attributes["sidegate.outcomes"] = [outcome.value for _, outcome in outcomes]
        return attributes

    def _left_out(self) -> bool:
        """Whether sampling drops a trace that begins here; decided before attributes are computed."""
        return random.random() >= self._sample

    def _parent(self, facts: RequestFacts) -> Context | None:
        """The parent span of the request's `traceparent`; None without exactly one valid field."""
        values = {name: facts.fields.getall(name, ()) for name in _TRACE_CONTEXT}
        if len(values["traceparent"]) != 1:
            return None
        carrier = {name: utf8_safe(",".join(each)) for name, each in values.items() if each}
        parent = self._propagator.extract(carrier, Context())
        return parent if get_current_span(parent).get_span_context().is_valid else None

    def _span(
        self, name: str, kind: SpanKind, parent: Context, attributes: Attributes, took_s: float, *, failed: bool
    ) -> str:
        """Send a span. Returns its trace id in hexadecimal digits, or nothing if its parent is not sampled."""
        end_ns = time.time_ns()  # spans have wall-clock times; the duration comes from the record
        start_ns = end_ns - int(took_s * 1e9)
        span = self._tracer.start_span(name, parent, kind, attributes, start_time=start_ns)
        if failed:
            span.set_status(StatusCode.ERROR)
        span.end(end_ns)
        context = span.get_span_context()
        return f"{context.trace_id:032x}" if context.trace_flags.sampled else ""
