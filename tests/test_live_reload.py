"""Edits of the configuration of a running sidecar take effect at once, on live connections too, and lose no request."""

import copy
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.admin.admin_client import ask
from tests.conftest import StartStore
from tests.raw_client import RawClient, Reply, get
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer
from tests.sidecar import PREFIX, Config, Sidecar, configuration

pytestmark = pytest.mark.slow

# So slow that nothing grows back while a test runs.
LIMIT = {"name": "limit", "match": {"path": "/api/**"}, "key": "header:X-User-ID", "limit": "1/day", "burst": 15}

Save = Callable[[Path, str], None]


def in_place(file: Path, text: str) -> None:
    file.write_text(text)


def replaced(file: Path, text: str) -> None:
    """As most editors save: a new file in the place of the old one."""
    new = file.with_name(".config.yaml.new")
    new.write_text(text)
    new.replace(file)


def swapped(file: Path, text: str) -> None:
    """As Kubernetes updates a ConfigMap: the file is a link to `..data/`, and `..data` a link that is swapped."""
    folder = file.parent / f"..{os.urandom(4).hex()}"
    folder.mkdir()
    (folder / file.name).write_text(text)
    (file.parent / "..data_tmp").symlink_to(folder.name)
    (file.parent / "..data_tmp").replace(file.parent / "..data")
    if not file.is_symlink():
        (file.parent / "link").symlink_to(f"..data/{file.name}")
        (file.parent / "link").replace(file)


class Edited:
    """A running sidecar whose configuration is edited. Each edit is another one, and waited for."""

    def __init__(self, sidecar: Sidecar) -> None:
        self.sidecar = sidecar
        self.file = sidecar.config_file
        self._config = copy.deepcopy(sidecar.config)

    def policies(self, *policies: dict[str, Any], save: Save = in_place, **sections: object) -> dict[str, Any]:
        """Edit the policies and sections; returns what the sidecar says when it has taken them over."""
        config: Config = {**self._config, "policies": list(policies)}
        for name, section in sections.items():
            config[name] = {**config.get(name, {}), **section} if isinstance(section, dict) else section
        return self.text(yaml.safe_dump(config), save=save)

    def text(self, text: str, *, save: Save = in_place, event: str = "config_reloaded") -> dict[str, Any]:
        before = len(self.sidecar.events(event))
        save(self.file, text)
        return self.sidecar.wait_for_event(event, before + 1)[-1]

    def ask(self, user: str) -> Reply:
        return get(self.sidecar.port, "/api/data", f"X-User-ID: {user}")

    def left(self, user: str) -> int:
        (policy,) = get(self.sidecar.port, "/api/status", f"X-User-ID: {user}").json()["policies"]
        remaining: int = policy["remaining"]
        return remaining

    def config_health(self) -> dict[str, Any]:
        health = get(self.sidecar.admin_port, "/readyz", "Connection: close")
        assert (health.status, health.json()["status"]) == (200, "ok")
        config: dict[str, Any] = health.json()["config"]
        return config


@pytest.fixture(scope="module")
def shared_edited(shared_store_server: StoreServer, shared_recorder: Recorder) -> Iterator[Edited]:
    config = configuration(shared_store_server.url, shared_recorder.url, policies=[LIMIT])
    with Sidecar(config) as sidecar:
        sidecar.may_complain = True  # an edit that is refused is an error in the log
        yield Edited(sidecar)
        assert sidecar.stderr == ""


@pytest.fixture
def edited(store_server: StoreServer, recorder: Recorder, shared_edited: Edited) -> Edited:
    """A sidecar under the policy `limit`, before an empty store."""
    shared_edited.policies(LIMIT)
    return shared_edited


# -- how an edit arrives ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [in_place, replaced, swapped])
def test_an_edit_is_in_force_however_the_file_is_saved(save: Save, edited: Edited) -> None:
    for burst in (3, 4):
        edited.policies({**LIMIT, "burst": burst}, save=save)
        assert edited.ask(f"{save.__name__}-{burst}").value("X-RateLimit-Limit") == str(burst)
    edited.file.unlink()
    edited.file.write_text("")  # a plain file again, for the next test


def test_sighup_applies_an_edit_that_changed_neither_size_nor_time(edited: Edited) -> None:
    before = len(edited.sidecar.events("config_reloaded"))
    text, status = edited.file.read_text(), edited.file.stat()
    new = text.replace("burst: 15", "burst: 16")
    assert len(new) == len(text)
    # Between two looks of the watcher a file cannot be written unseen: so its time is put back within one.
    edited.file.write_text(new)
    os.utime(edited.file, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.kill(edited.sidecar.pid, signal.SIGHUP)
    edited.sidecar.wait_for_event("config_reloaded", before + 1)
    assert edited.ask("hangup").value("X-RateLimit-Limit") == "16"


def test_an_edit_counts_for_the_next_request_of_a_live_connection(edited: Edited) -> None:
    with RawClient(edited.sidecar.port) as client:
        assert client.get("/api/data", "X-User-ID: live").value("X-RateLimit-Limit") == "15"
        edited.policies({**LIMIT, "burst": 7})
        assert client.get("/api/data", "X-User-ID: live").value("X-RateLimit-Limit") == "7"


def test_an_edit_counts_for_a_caller_whose_refusal_was_remembered(edited: Edited) -> None:
    edited.policies({**LIMIT, "burst": 1})
    assert [edited.ask("freed").status for _ in range(2)] == [200, 429]
    edited.policies({**LIMIT, "overrides": [{"key": "freed", "exempt": True}]})
    assert edited.ask("freed").status == 200


# -- what it does to buckets ------------------------------------------------------------------------------------------


def test_a_smaller_burst_removes_the_excess_and_a_larger_one_refills_nothing(edited: Edited) -> None:
    for _ in range(3):
        edited.ask("saver")
    assert edited.left("saver") == 12
    edited.policies({**LIMIT, "burst": 5})
    assert edited.left("saver") == 5
    edited.ask("saver")
    edited.policies({**LIMIT, "burst": 100})
    assert edited.left("saver") == 4
    assert [edited.ask("saver").status for _ in range(5)] == [200] * 4 + [429]


def test_another_rate_refills_nothing(edited: Edited) -> None:
    for _ in range(15):
        edited.ask("spender")
    for limit in ("2/day", "1/h", "1/day"):
        edited.policies({**LIMIT, "limit": limit})
        assert edited.ask("spender").status == 429
        assert edited.left("spender") == 0


def test_an_edit_of_the_key_prefix_moves_buckets_probe_and_announcements(
    start_store: StartStore, recorder: Recorder
) -> None:
    store = start_store()
    client: Any = store.client
    client.execute_command("ACL SETUSER", "narrowed", "on", ">narrowed", "+@all", "~example:*", "~renamed:*")
    login = {"username": "narrowed", "password": "narrowed", "on_failure": "local", "timeout": "200ms"}
    with Sidecar(configuration(store.url, recorder.url, policies=[LIMIT], store=login)) as one:
        edited = Edited(one)
        eventually(lambda: store.client.exists("example:proxies"), "the sidecar announces itself")
        edited.policies(LIMIT, store={"key_prefix": "renamed:"})
        client.execute_command("ACL SETUSER", "narrowed", "resetkeys", "~renamed:*")
        assert edited.ask("mover").value("X-RateLimit-Remaining") == "14"
        eventually(lambda: store.client.zcard("renamed:proxies") == 1, "it announces itself under the new prefix")
        store.pause()
        eventually(lambda: edited.ask("other").status and one.events("store_breaker_open"), "the breaker opens")
        store.resume()
        one.wait_for_event("store_breaker_closed")
        assert store.client.exists("renamed:probe")


def test_a_renamed_policy_starts_new_buckets_and_logs_it(edited: Edited, store_server: StoreServer) -> None:
    edited.policies({**LIMIT, "burst": 1})
    assert [edited.ask("mover").status for _ in range(2)] == [200, 429]
    changes = edited.policies({**LIMIT, "burst": 1, "name": "renamed"})
    assert (changes["gone"], changes["new_with_new_buckets"]) == (["limit"], ["renamed"])
    assert [edited.ask("mover").status for _ in range(2)] == [200, 429]
    assert store_server.buckets() == [f"{PREFIX}{policy}:mover".encode() for policy in ("limit", "renamed")]


# -- what it says -----------------------------------------------------------------------------------------------------


def test_settings_that_need_a_restart_are_named(edited: Edited) -> None:
    before = len(edited.sidecar.events("config_needs_restart"))
    edited.policies(LIMIT, listen={"port": 9}, store={"url": "redis://elsewhere"}, log={"requests": "none"})
    warning = edited.sidecar.wait_for_event("config_needs_restart", before + 1)[-1]
    config = ask(edited.sidecar, "/overview")[2]["config"]
    assert (config["status"], config["needs_restart"]) == ("ok", warning["settings"])
    assert (warning["level"], warning["settings"]) == ("warning", ["listen.port", "store.url"])
    assert edited.ask("stayed").status == 200


def test_an_invalid_edit_changes_nothing_is_logged_once_and_shows_in_health_until_fixed(edited: Edited) -> None:
    edited.policies({**LIMIT, "burst": 2})
    before = len(edited.sidecar.events("config_refused"))
    refused = edited.text("policies: [{name: a, limit: 10/min}]\nlog: {level: loud}\n", event="config_refused")
    assert [fault.partition("config.yaml")[2][:6] for fault in refused["faults"]] == [":1:12:", ":1:29:", ":2:14:"]
    assert [edited.ask("keeper").status for _ in range(3)] == [200, 200, 429]
    stale = edited.config_health()
    assert (stale["status"], list(stale["faults"])) == ("stale", refused["faults"])
    assert stale["since"].endswith("Z")
    edited.text("policies: 3\n", event="config_refused")
    assert edited.config_health()["since"] == stale["since"]
    assert len(edited.sidecar.events("config_refused")) == before + 2
    edited.policies(LIMIT)
    assert edited.config_health()["status"] == "ok"


# -- under load -------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_edits_under_load_lose_no_request(edited: Edited, recorder: Recorder) -> None:
    roomy = {**LIMIT, "burst": 100_000}
    edited.policies(roomy)
    stop = threading.Event()
    answered: list[int] = []
    lock = threading.Lock()

    def hammer(number: int) -> None:
        statuses = []
        with RawClient(edited.sidecar.port) as client:
            while not stop.is_set():
                reply = client.get("/api/data", f"X-User-ID: worker-{number}")
                assert reply.complete
                statuses.append(reply.status)
        with lock:
            answered.extend(statuses)

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for burst in range(5):
        edited.policies({**roomy, "burst": 100_001 + burst})
        edited.text(f"policies: {burst}\n", event="config_refused")
    stop.set()
    for thread in threads:
        thread.join(20)
    assert set(answered) == {200}
    assert len(answered) == len(recorder.requests) > 100


@pytest.mark.long
def test_edits_at_any_moment_admit_no_more_than_the_bucket_held(edited: Edited, recorder: Recorder) -> None:
    stop = threading.Event()

    def hammer() -> None:
        with RawClient(edited.sidecar.port) as client:
            while not stop.is_set():
                assert client.get("/api/data", "X-User-ID: greedy").status in (200, 429)

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    for burst in (40, 3, 40, 9):
        edited.policies({**LIMIT, "burst": burst})
    stop.set()
    for thread in threads:
        thread.join(20)
    assert 1 <= len(recorder.requests) <= 15  # the first burst; nothing that came after refilled anything
