"""`sidegate doctor` against real stores, applications and ports."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from tests.commands.command_line import sidegate
from tests.commands.doctor.conftest import Doctor, of
from tests.recorder import Recorder
from tests.servers import StoreServer, free_port
from tests.sidecar import Sidecar, configuration


def test_everything_is_well_with_a_store_an_application_and_free_ports(
    doctor: Doctor, own_store_server: StoreServer
) -> None:
    done = doctor(own_store_server.url, policies=[{"name": "a", "key": "client_ip", "limit": "1/s"}])
    states = {each["part"]: each["state"] for each in done.json["findings"]}
    assert (done.status, done.json["ok"], set(states.values())) == (0, True, {"ok"}), done.out
    assert list(states) == [
        *("configuration", "store", "decisions", "rights", "proxies", "eviction", "round trip", "clock"),
        *("application", "port", "admin port", "open files"),
    ]
    assert ": valkey " in of(done, "store")["text"]
    assert of(done, "store")["text"].endswith(", master")
    assert of(done, "proxies")["text"].startswith("0 announce themselves")
    assert own_store_server.buckets() == []


def test_the_report_for_people_names_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("policies: []\n")
    gone = f"127.0.0.1:{free_port()}"
    flags = ("--redis", gone, "--upstream", f"http://{gone}", "--port", "0", "--admin-port", str(free_port()))
    done = sidegate("doctor", file, *flags)
    assert done.status == 1
    lines = done.out.splitlines()
    assert any(line.startswith("fail  store ") and "(connect)" in line for line in lines), done.out
    assert any(line.startswith("fail  application ") and line.endswith("Connection refused") for line in lines)
    assert any(line.strip() == "→ start it, or correct upstream.url (now from: flag --upstream)" for line in lines)
    assert lines[-1] == "2 failures, 2 warnings"  # no policy limits anything, no proxy is named


def test_an_invalid_configuration_is_the_only_finding(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("polices: []\n")
    done = sidegate("doctor", "--json", file)
    assert [(each["part"], each["state"]) for each in done.json["findings"]] == [("configuration", "fail")]
    assert done.status == 1


def test_a_wrong_password_and_a_missing_one_are_named(doctor: Doctor, start_store: Callable[..., StoreServer]) -> None:
    server = start_store(password="right")
    missing, wrong = doctor(server.url), doctor(server.url, store={"password": "wrong"})
    assert "(noauth)" in of(missing, "store")["text"]
    assert of(missing, "store")["advice"] == "set store.password (REDIS_PASSWORD)"
    assert "(wrongpass)" in of(wrong, "store")["text"]
    assert doctor(server.url, store={"password": "right"}).status == 0


def test_a_user_without_all_rights_gets_a_warning_for_each_command(
    doctor: Doctor, start_store: Callable[..., StoreServer]
) -> None:
    server = start_store()
    server.client.acl_setuser(
        "few", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-info", "-scan", "-zadd"], reset=True
    )
    done = doctor(server.url, store={"username": "few", "password": "x"})
    assert done.status == 0, "optional commands"
    warned = [each for each in done.json["findings"] if each["state"] == "warn"]
    assert [(each["part"], each["text"].partition(":")[0]) for each in warned if each["part"] == "rights"] == [
        ("rights", "ZADD"),
        ("rights", "SCAN"),
    ]
    assert "unknown version (no right to INFO)" in of(done, "store")["text"]
    assert of(done, "eviction")["text"] == "unknown: no right to INFO"
    server.client.acl_setuser("few", enabled=True, commands=["-evalsha", "-eval"])
    done = doctor(server.url, store={"username": "few", "password": "x"})
    assert (done.status, of(done, "decisions")["state"]) == (1, "fail")


@pytest.mark.parametrize(
    ("policy", "state"),
    [("noeviction", "ok"), ("volatile-ttl", "ok"), ("allkeys-lru", "warn"), ("volatile-lru", "warn")],
)
def test_an_eviction_policy_that_drops_buckets_in_use_is_warned_of(
    doctor: Doctor, start_store: Callable[..., StoreServer], policy: str, state: str
) -> None:
    server = start_store("--maxmemory", "100mb", "--maxmemory-policy", policy)
    assert of(doctor(server.url), "eviction")["state"] == state


def test_a_full_store_fails_the_decision(doctor: Doctor, start_store: Callable[..., StoreServer]) -> None:
    server = start_store("--maxmemory", "1", "--maxmemory-policy", "noeviction")
    found = of(doctor(server.url), "decisions")
    assert (found["state"], "(oom)" in found["text"], "volatile-ttl" in found["advice"]) == ("fail", True, True)


def test_a_replica_is_a_failure(doctor: Doctor, start_store: Callable[..., StoreServer]) -> None:
    server = start_store()
    server.client.replicaof("127.0.0.1", str(free_port()))
    assert of(doctor(server.url), "store")["state"] == "fail"


def test_a_port_of_another_process_is_a_failure(doctor: Doctor, store_server: StoreServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = doctor(store_server.url, listen={"port": other.getsockname()[1]})
    assert (done.status, of(done, "port")["advice"]) == (1, "stop it, or change listen.port or --port")


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_ports_of_a_running_sidecar_are_well(
    own_store_server: StoreServer, recorder: Recorder, tmp_path: Path, *, tls: bool
) -> None:
    config = configuration(own_store_server.url, recorder.url, listen={"port": free_port()})
    if tls:
        issued = trustme.CA().issue_cert("admin.test")
        issued.private_key_pem.write_to_path(str(tmp_path / "key"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
        config["admin"]["tls"] = {"cert_file": str(tmp_path / "cert"), "key_file": str(tmp_path / "key")}
    with Sidecar(config) as sidecar:
        done = sidegate("doctor", "--json", sidecar.config_file)
        assert done.status == 0, done.out
        assert of(done, "port")["text"].endswith("is used by a running sidecar")
        assert of(done, "proxies")["text"].startswith("1 announce")
