"""Shares of proxies that start while the store is away, and the warning of an edit to `local` while they are unknown."""

from collections.abc import Iterator

import pytest
import yaml

from tests.admin.admin_client import ask
from tests.raw_client import get
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer, free_port
from tests.sidecar import TIGHT, Config, Sidecar, configuration

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.stop()


def edit(sidecar: Sidecar, config: Config) -> None:
    after = sidecar.config_file.with_suffix(".new")
    after.write_text(yaml.safe_dump(config))
    after.replace(sidecar.config_file)
    reloads = len(sidecar.events("config_reloaded"))
    eventually(lambda: len(sidecar.events("config_reloaded")) > reloads, "the edit")


def test_an_edit_to_local_before_any_contact_with_the_store_is_warned_of(recorder: Recorder) -> None:
    config = configuration(f"redis://127.0.0.1:{free_port()}", recorder.url, policies=[TIGHT])
    with Sidecar(config) as sidecar:

        def problem() -> str:
            found = ask(sidecar, "/overview")[2]["problem"]
            return str(found["text"]) if found else ""

        eventually(lambda: "set store.replicas before an edit to `local`" in problem(), "the warning before the edit")
        edit(sidecar, {**config, "store": {**config["store"], "on_failure": "local", "replicas": 3}})
        assert sidecar.events("local_share_unknown") == []
        eventually(lambda: "store.replicas" not in problem(), "the count that the edit gives")
        edit(sidecar, config)
        edit(sidecar, {**config, "store": {**config["store"], "on_failure": "local"}})
        (line,) = sidecar.events("local_share_unknown")
        assert (line["level"], line["policies"], line["divided_by"]) == ("warning", ["tight"], 1)
        edit(sidecar, {**config, "store": {**config["store"], "on_failure": "local"}, "log": {"requests": "all"}})
        assert len(sidecar.events("local_share_unknown")) == 1, "the policy was local before"


def test_a_debt_is_charged_once_the_store_is_back_though_no_request_follows(recorder: Recorder) -> None:
    port = free_port()
    store = {"on_failure": "local", "replicas": 1}
    config = configuration(f"redis://127.0.0.1:{port}", recorder.url, policies=[TIGHT], store=store)
    with Sidecar(config) as sidecar:
        # One failure opens no breaker, whose closing would be a reason to pay.
        assert get(sidecar.port, "/tight", "X-User-ID: u").status == 200
        server = StoreServer("--port", str(port))
        try:
            eventually(lambda: server.client.hexists("example:tight:u", "tokens"), "the charge")
        finally:
            server.stop()


def test_each_start_in_an_outage_adds_one_shares_burst_and_the_last_one_is_charged(recorder: Recorder) -> None:
    port = free_port()
    policy = {**TIGHT, "limit": "1/h", "burst": 12}
    store = {"on_failure": "local", "replicas": 3}
    config = configuration(f"redis://127.0.0.1:{port}", recorder.url, policies=[policy], store=store)

    def statuses(sidecar: Sidecar, count: int) -> list[int]:
        return [get(sidecar.port, "/tight", "X-User-ID: u").status for _ in range(count)]

    for _ in range(2):
        with Sidecar(config) as sidecar:
            assert statuses(sidecar, 6) == [200] * 4 + [429] * 2
    with Sidecar(config) as sidecar:
        assert statuses(sidecar, 6) == [200] * 4 + [429] * 2
        server = StoreServer("--port", str(port))
        try:
            eventually(lambda: server.client.hget("example:tight:u", "tokens") == b"8", "the debt of the last process")
        finally:
            server.stop()
