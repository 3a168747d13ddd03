"""The admin API answers every request as its OpenAPI document says."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import settings
from sidegate.admin.openapi import document

from tests.admin.admin_client import ask
from tests.raw_client import get
from tests.recorder import Recorder
from tests.servers import StoreServer
from tests.sidecar import TIGHT, Sidecar, configuration

# On loopback without a token; test_listener covers tokens, and the stream, which does not end.
open_document = {**document(), "security": []}
schema = schemathesis.openapi.from_dict(open_document).exclude(path="/events")


@pytest.fixture(scope="module")
def sidecar(shared_store_server: StoreServer) -> Iterator[Sidecar]:
    recorder = Recorder()
    with Sidecar(configuration(shared_store_server.url, recorder.url, policies=[TIGHT])) as sidecar:
        for user in ("a", "b/c"):
            get(sidecar.port, "/tight/x", f"X-User-ID: {user}")
        yield sidecar
    recorder.stop()


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=15)
def test_every_answer_conforms_to_the_document(case: Any, sidecar: Sidecar) -> None:
    case.call_and_validate(base_url=f"http://127.0.0.1:{sidecar.admin_port}")


def test_the_document_is_served(sidecar: Sidecar) -> None:
    status, _, served = ask(sidecar, "/openapi.json")
    assert (status, served) == (200, document())
    assert {
        f"/{path}"
        for path in [
            "livez",
            "readyz",
            "metrics",
            "config",
            "policies",
            "buckets",
            "explain",
            "top",
            "refusals",
            "timeline",
            "events",
        ]
    } < set(served["paths"])
