"""A sidecar with two workers reads settings from flags, file and environment, and shows the origin of each."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import yaml

from tests.recorder import Recorder, eventually
from tests.servers import StoreServer, free_port
from tests.sidecar import Sidecar, configuration

pytestmark = pytest.mark.slow


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.stop()


def test_flags_and_variables_reach_every_worker_and_stay_through_a_reload(
    store_server: StoreServer, recorder: Recorder
) -> None:
    config = configuration("redis://127.0.0.1:1", recorder.url, listen={"port": 1, "workers": 2})
    del config["upstream"]
    port = free_port()
    flags = ("--port", str(port), "--redis", store_server.url)
    with Sidecar(config, environment={"UPSTREAM_URL": recorder.url}, arguments=flags) as sidecar:
        for started in sidecar.wait_for_event("started", 2):
            assert (started["port"], started["upstream"], started["store"]) == (
                port,
                recorder.url.rstrip("/"),
                f"{store_server.url.rstrip('/')}/0",
            )
            assert started["config"] == str(sidecar.config_file)
            assert started["admin"] == f"127.0.0.1:{sidecar.admin_port}"
            assert started["origins"] == {
                "listen.port": "flag --port",
                "upstream.url": "environment UPSTREAM_URL",
                "store.url": "flag --redis",
                "store.password": "default",
                "admin.host": "file",
                "admin.port": "file",
                "admin.token": "default",
            }
        with urlopen(Request(f"http://127.0.0.1:{port}/roomy", headers={"X-User-ID": "ann"}), timeout=30) as reply:
            assert reply.status == 200

        def page() -> dict[str, object]:
            with urlopen(f"http://127.0.0.1:{sidecar.admin_port}/config", timeout=30) as reply:
                found: dict[str, object] = json.load(reply)
                return found

        origins = page()["origins"]
        assert isinstance(origins, dict)
        assert (origins["listen.port"], origins["listen.workers"], origins["log.level"]) == (
            "flag --port",
            "file",
            "default",
        )
        edit(sidecar.config_file, {**config, "log": {"level": "debug"}})
        eventually(lambda: page()["origins"] == {**origins, "log.level": "file"}, "the edit")
        assert page()["needs_restart"] == []


def edit(file: Path, config: dict[str, object]) -> None:
    after = file.with_suffix(".new")
    after.write_text(yaml.safe_dump(config, sort_keys=False))
    after.replace(file)
