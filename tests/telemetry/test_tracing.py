"""Spans of a real sidecar, as a collector receives them."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.raw_client import get
from tests.recorder import Act, Recorder
from tests.servers import StoreServer, free_port
from tests.sidecar import ROOT, Sidecar, configuration, run_command

pytest.importorskip("opentelemetry.proto", reason="the extra otel is not installed")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, CLIENT, ERROR = 2, 3, 2  # of the protocol


class Collector:
    """An OTLP/HTTP collector that keeps the spans it gets, and the attributes of who sent them."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.senders: list[dict[str, object]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
                for resource in sent.resource_spans:
                    collector.senders.append(attributes(resource.resource))
                    collector.spans += [span for scope in resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  (the base class's name)
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    def of_kind(self, kind: int) -> list[Any]:
        return [span for span in self.spans if span.kind == kind]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def attributes(holder: Any) -> dict[str, object]:
    """The attributes of a span or of its sender, as plain values."""
    return {each.key: plain(each.value) for each in holder.attributes}


def plain(value: Any) -> object:
    kind = value.WhichOneof("value")
    return [plain(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.stop()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.stop()


@pytest.mark.slow
def test_requests_and_store_calls_become_spans_sent_at_the_latest_at_the_stop(
    store_server: StoreServer, recorder: Recorder, collector: Collector
) -> None:
    config = configuration(store_server.url, recorder.url, tracing={"endpoint": collector.endpoint})
    with Sidecar(config) as sidecar:
        get(sidecar.port, "/tight/a?secret=1", "X-User-ID: ann", f"traceparent: 00-{TRACE}-{PARENT}-01")
        get(sidecar.port, "/tight/a", "X-User-ID: ann", "traceparent: nonsense")
        get(sidecar.port, "/tight/a", "X-User-ID: ann")
        recorder.answer(Act.CLOSE)
        get(sidecar.port, "/b", "X-User-ID: ann", method="PURGE")
        get(sidecar.port, "/c\xff")
        accept = "application/openmetrics-text"
        exposition = get(sidecar.admin_port, "/metrics", f"Accept: {accept}", "Connection: close").body.decode()
        assert len(re.findall(r'duration_seconds_bucket{le="[^"]+"} \S+ # {trace_id="[0-9a-f]{32}"} ', exposition)) >= 1
        plain_text = get(sidecar.admin_port, "/metrics", "Connection: close").body.decode()
        assert "trace_id" not in plain_text
    passed, _, refused, broken, invalid = sorted(collector.of_kind(SERVER), key=lambda span: span.end_time_unix_nano)
    about = attributes(passed)
    assert (passed.name, passed.trace_id.hex(), passed.parent_span_id.hex()) == ("GET", TRACE, PARENT)
    assert (about["url.path"], about["http.response.status_code"], passed.status.code) == ("/tight/a", 200, 0)
    assert about["sidegate.policies"] == ["roomy", "tight"]
    assert about["sidegate.outcomes"] == ["allowed", "allowed"]
    assert passed.end_time_unix_nano > passed.start_time_unix_nano

    assert (attributes(refused)["http.response.status_code"], refused.status.code) == (429, 0)
    assert attributes(refused)["sidegate.outcomes"] == ["allowed", "refused"]
    assert (refused.parent_span_id, refused.trace_id.hex() != TRACE) == (b"", True)

    about = attributes(broken)
    assert (broken.name, broken.status.code, about["error.type"]) == ("HTTP", ERROR, "upstream_broken")
    assert (about["http.request.method"], about["http.request.method_original"]) == ("_OTHER", "PURGE")

    about = attributes(invalid)
    assert (about["http.response.status_code"], about["error.type"], invalid.status.code) == (400, "bad_request", 0)
    assert "sidegate.decided_by" not in about

    calls = collector.of_kind(CLIENT)
    assert {call.name for call in calls} == {"EVALSHA"}
    assert len(calls) >= 3
    assert {call.parent_span_id for call in calls} == {b""}
    assert {sender["service.name"] for sender in collector.senders} == {"sidegate"}


@pytest.mark.slow
def test_of_new_traces_only_the_configured_share_is_sent(
    store_server: StoreServer, recorder: Recorder, collector: Collector
) -> None:
    tracing = {"endpoint": collector.endpoint, "sample": 0}
    with Sidecar(configuration(store_server.url, recorder.url, tracing=tracing)) as sidecar:
        get(sidecar.port)
        get(sidecar.port, "/", "traceparent: nonsense")
        get(sidecar.port, "/", f"traceparent: 00-{TRACE}-{PARENT}-01")
        get(sidecar.port, "/", f"traceparent: 00-{TRACE}-{PARENT}-00")
    assert [span.parent_span_id.hex() for span in collector.spans] == [PARENT]


@pytest.mark.slow
def test_a_missing_collector_delays_neither_requests_nor_the_stop(
    store_server: StoreServer, recorder: Recorder
) -> None:
    tracing = {"endpoint": f"http://127.0.0.1:{free_port()}/v1/traces"}
    with Sidecar(configuration(store_server.url, recorder.url, tracing=tracing)) as sidecar:
        sidecar.may_complain = True
        assert get(sidecar.port).status == 200
        sidecar.ask_to_stop()
        assert sidecar.wait() == 0
    assert sidecar.events("stopped")


@pytest.mark.slow
def test_a_sidecar_without_the_extra_names_it_and_ends(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("", "utf-8")
    file = tmp_path / "config.yaml"
    config = configuration("redis://127.0.0.1:1", "http://127.0.0.1:1", tracing={"endpoint": "http://127.0.0.1:1/"})
    file.write_text(yaml.safe_dump(config), "utf-8")
    ended = run_command("run", "--config", str(file), environment={"PYTHONPATH": str(tmp_path)})
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "sidegate: cannot start: tracing needs more packages: pip install 'sidegate[otel]'\n"


@pytest.mark.slow
def test_without_an_endpoint_neither_spans_nor_their_exporter_are_loaded() -> None:
    # Parts of the package may be: redis-py looks for it by itself.
    look = "import sys, sidegate.app, sidegate.cli; print([name for name in sys.modules if name in {!r}])"
    names = ("sidegate.telemetry.tracing", "opentelemetry.sdk.trace.export", "opentelemetry.exporter.otlp.proto.http")
    ended = subprocess.run(
        [sys.executable, "-c", look.format(names)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert ended.stdout == "[]\n"
