"""docs/operations.md names every metric and every field of the log."""

import re
from pathlib import Path

import pytest

from tests.raw_client import get
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer
from tests.sidecar import Sidecar, configuration
from tests.telemetry.scraped import scraped

TEXT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
NAMED = set(re.findall(r"`([a-z_0-9*]+)`", TEXT))


@pytest.mark.slow
def test_every_metric_and_log_field_is_documented(store_server: StoreServer) -> None:
    recorder = Recorder()
    with Sidecar(configuration(store_server.url, recorder.url, log={"requests": "all"})) as sidecar:
        for path in ("/tight/a", "/tight/a", "/tight/a", "/%2e%252e"):
            get(sidecar.port, path, "X-User-ID: a")
        eventually(lambda: len(sidecar.events("refused") + sidecar.events("request")) == 4, "four lines")
        names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in scraped(sidecar)}
    recorder.stop()
    assert {name for name in names if not name.startswith("process_")} <= NAMED
    fields = {field for line in sidecar.lines for field in line}
    assert fields - NAMED == set()
    assert {line["event"] for line in sidecar.lines} <= NAMED
