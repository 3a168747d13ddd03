"""Every command that the runbooks name works: against a sidecar and its store, by `make -n`, or by the names of objects."""

import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from sidegate.admin.runbook import runbook_text

from deploy.charts import BASE, BASE_NAME
from tests.raw_client import get
from tests.recorder import Recorder
from tests.servers import StoreServer, free_port
from tests.sidecar import DEMONSTRATION, Sidecar, configuration

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("curl", "sidegate", "redis-cli", "make", "kubectl", "kill")
REDIS_CLI = shutil.which("redis-cli")
COMMANDS = sorted(
    {
        re.sub(r"\s+", " ", span).replace("\\|", "|")
        for span in re.findall(r"`([^`]+)`", runbook_text())
        if span.split()[0] in PROGRAMS
    }
)
# Named without their arguments.
FRAGMENTS = {"sidegate", "sidegate explain", "sidegate check", "redis-cli DEL", "kill -9", "kubectl exec -it"}
# Print nothing where all is well, or nothing to a pipe.
SILENT = {"redis-cli --latency", "sidegate tail --key alice --once"}
COMPLETE = [each for each in COMMANDS if "…" not in each and each not in FRAGMENTS]


@dataclass(frozen=True, slots=True)
class Workplace:
    """A folder with the files that commands name, and the environment that leads them to this test's sidecar."""

    folder: Path
    environment: dict[str, str]
    port: int
    admin_port: int


@pytest.fixture(scope="module")
def workplace(shared_store_server: StoreServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    folder = tmp_path_factory.mktemp("runbook")
    recorder = Recorder()
    config = configuration(
        shared_store_server.url,
        recorder.url,
        policies=[DEMONSTRATION],
        listen={"port": free_port()},
        client_ip={"trusted_proxies": ["127.0.0.0/8"]},
    )
    for name in ("config.yaml", "new.yaml"):
        (folder / name).write_text(yaml.safe_dump(config))
    log = gzip.decompress((ROOT / "docs/examples/access.log.gz").read_bytes()).splitlines(keepends=True)[:50]
    (folder / "access.log").write_bytes(b"".join(log))
    programs = folder / "bin"
    programs.mkdir()
    (programs / "redis-cli").write_text(f'#!/bin/sh\nexec {REDIS_CLI} -p {shared_store_server.port} "$@"\n')
    (programs / "redis-cli").chmod(0o755)
    with Sidecar(config) as sidecar:
        get(sidecar.port, "/api/data", "X-User-ID: alice")
        environment = {
            **os.environ,
            "PATH": f"{programs}:{ROOT / '.venv/bin'}:{os.environ['PATH']}",
            "ADMIN_PORT": str(sidecar.admin_port),
        }
        yield Workplace(folder, environment, sidecar.port, sidecar.admin_port)
    recorder.stop()


def test_the_runbooks_name_commands_of_every_program() -> None:
    assert {each.split()[0] for each in COMMANDS} == set(PROGRAMS)
    assert set(COMMANDS) >= FRAGMENTS, "remove what the runbooks no longer name"


@pytest.mark.slow
@pytest.mark.parametrize("command", [each for each in COMPLETE if each.split()[0] in ("curl", "sidegate", "redis-cli")])
def test_a_command_works_against_a_sidecar_and_its_store(command: str, workplace: Workplace) -> None:
    if command.startswith("redis-cli") and REDIS_CLI is None:
        pytest.skip("no redis-cli")
    moved = command.replace("localhost:8081", f"127.0.0.1:{workplace.port}")
    moved = moved.replace("localhost:9081", f"127.0.0.1:{workplace.admin_port}")
    moved = moved.replace("curl ", "curl -sSf ")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", moved],
        cwd=workplace.folder,
        env=workplace.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout or command in SILENT


@pytest.mark.slow
@pytest.mark.parametrize("command", [each for each in COMPLETE if each.startswith("make ")])
def test_a_target_of_make_exists(command: str) -> None:
    words = command.partition("|")[0].split()
    done = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.startswith("kubectl ")])
def test_a_command_of_kubectl_names_objects_of_the_base(command: str) -> None:
    objects = [each for each in yaml.safe_load_all(BASE.read_text("utf-8")) if each]
    names = {(each["kind"], each["metadata"]["name"].replace(BASE_NAME, "demo", 1)) for each in objects}
    pod = next(each for each in objects if each["kind"] == "Deployment")["spec"]["template"]["spec"]
    containers = {each["name"] for each in (*pod["initContainers"], *pod["containers"])}
    secrets = {
        each["valueFrom"]["secretKeyRef"]["name"].replace(BASE_NAME, "demo", 1)
        for each in pod["initContainers"][0]["env"]
        if "valueFrom" in each
    }
    for name in re.findall(r"\bdeploy/(\S+)", command):
        assert ("Deployment", name) in names
    for name in re.findall(r"\bconfigmap (\S+)", command):
        assert ("ConfigMap", name) in names
    for name in re.findall(r"\bsecret (\S+)", command):
        assert name in secrets
    for name in re.findall(r" -c (\S+)", command):
        assert name in containers
    for name in re.findall(r"app\.kubernetes\.io/name=(\S+)", command):
        assert name == "demo"
