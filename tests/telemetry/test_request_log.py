"""Log lines of requests: levels, trace ids, repeated refusals, and the text form for terminals."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest
from multidict import CIMultiDict
from sidegate.decision.request import RequestFacts
from sidegate.telemetry.logs import text_line
from sidegate.telemetry.request_log import trace_id_of

from tests.raw_client import get
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer, free_port
from tests.sidecar import Sidecar, configuration

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def facts(*fields: tuple[str, str]) -> RequestFacts:
    return RequestFacts("GET", "/", CIMultiDict(fields), "192.0.2.1")


@pytest.mark.parametrize(
    ("values", "trace_id"),
    [
        ([PARENT], TRACE),
        ([], ""),
        ([PARENT, PARENT], ""),
        ([PARENT.upper()], ""),
        (["00-" + "0" * 32 + "-00f067aa0ba902b7-01"], ""),
        ([f"00-{TRACE}-{'0' * 16}-01"], ""),
        ([PARENT + "x"], ""),
        (["nonsense"], ""),
    ],
)
def test_a_trace_id_is_read_from_one_valid_traceparent(values: list[str], trace_id: str) -> None:
    assert trace_id_of(facts(*(("traceparent", value) for value in values))) == trace_id


def test_a_line_for_a_terminal_has_level_event_and_values_and_no_control_characters() -> None:
    line = text_line({"level": "warning", "event": "request", "path": "/a b\x1b[31m", "status": 502, "buckets": ["x"]})
    text = re.sub(r"\x1b\[\d+m", "", line.decode())
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d\.\d{3} warning request path="/a b\\\\x1b\[31m" status=502 buckets=\["x"\]\n', text
    ), text
    trace = text_line({"level": "error", "event": "failed", "trace": "Traceback\n  line\x07"}).decode()
    assert trace.endswith("\nTraceback\n  line\\x07\n")


@pytest.mark.slow
def test_a_request_answered_5xx_is_a_warning_with_its_trace_id(store_server: StoreServer) -> None:
    down = f"http://127.0.0.1:{free_port()}"
    with Sidecar(configuration(store_server.url, down)) as sidecar:
        assert get(sidecar.port, "/a", f"traceparent: {PARENT}").status == 502
        (line,) = sidecar.wait_for_event("request")
        assert (line["level"], line["status"], line["trace_id"]) == ("warning", 502, TRACE)


@pytest.mark.slow
def test_repeated_refusals_share_a_line_with_path_and_wait(store_server: StoreServer) -> None:
    recorder = Recorder()
    with Sidecar(configuration(store_server.url, recorder.url)) as sidecar:

        def again() -> bool:
            for path in ("/tight/a", "/tight/b"):
                get(sidecar.port, path, "X-User-ID: a")
            return bool(sidecar.events("refused_again"))

        eventually(again, "the line of repeated refusals")
        line = sidecar.events("refused_again")[0]
        assert line["path"] in ("/tight/a", "/tight/b")
        assert (line["status"], line["level"]) == (429, "info")
        assert 0 < line["retry_after_s"] <= 86_400
    recorder.stop()


@pytest.mark.slow
def test_the_log_is_text_at_a_terminal_and_json_in_a_pipe(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = configuration("redis://127.0.0.1:1", "http://127.0.0.1:1")
    file = tmp_path_factory.mktemp("terminal") / "config.yaml"
    file.write_text(json.dumps(config))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sidegate", "run", "--config", str(file)], stdout=theirs, stderr=subprocess.DEVNULL
    )
    os.close(theirs)
    written = b""
    try:
        while b"started" not in written:
            written += os.read(ours, 4096)
    finally:
        process.terminate()
        process.wait(30)
        os.close(ours)
    assert re.search(rb"\d\d:\d\d:\d\d\.\d{3} info +started version=", written), written
