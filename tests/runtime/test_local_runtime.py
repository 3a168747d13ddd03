"""`make start`, `stop`, `restart` and `status` with real processes, in a temporary run folder and on free ports."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from deploy.local import proc
from deploy.local.supervise import Supervisor, forget_socket, socket_path
from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
PORTS = ["REDIS_PORT", *(f"{kind}{number}_PORT" for kind in ("PROXY", "ADMIN", "APP") for number in (1, 2, 3))]
LIMIT_S = 50


class Demonstration:
    """One run folder and its ports. `make` runs what the make target of that name runs."""

    def __init__(self, run: Path, **more: str) -> None:
        self.run = run
        self.ports = dict(zip(PORTS, [free_port() for _ in range(len(PORTS))], strict=True))
        inherited = {name: value for name, value in os.environ.items() if name not in {"REDIS_URL", "CONFIG", "ARGS"}}
        ports = {name: str(port) for name, port in self.ports.items()}
        self.environment = {**inherited, **ports, "RUNTIME": "local", "RUN_DIR": str(run), **more}

    def make(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deploy", *command],
            cwd=ROOT,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )

    def begin(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "deploy", *command],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def left_behind(self) -> list[str]:
        """Processes, ports and files that must not exist after a stop."""
        files = (
            {path.name for path in self.run.iterdir()} - {"lock", "logs", "logs-before"} if self.run.exists() else set()
        )
        taken = [name for name, port in self.ports.items() if proc.taken("127.0.0.1", port)]
        return [*map(str, proc.marked(self.run)), *taken, *files]


@pytest.fixture
def demonstration(tmp_path: Path) -> Iterator[Demonstration]:
    each = Demonstration(tmp_path / "run")
    yield each
    proc.end_marked(each.run)


@pytest.mark.slow
@pytest.mark.long
def test_start_restart_and_stop_work_and_a_second_start_changes_nothing(demonstration: Demonstration) -> None:
    started = demonstration.make("start")
    assert started.returncode == 0, started.stderr
    assert f"http://localhost:{demonstration.ports['PROXY3_PORT']}" in started.stdout

    again = demonstration.make("start")
    assert again.returncode == 0
    assert "already running" in again.stdout
    assert demonstration.make("health").returncode == 0

    before = set(proc.marked(demonstration.run))
    restarted = demonstration.make("restart")
    assert restarted.returncode == 0, restarted.stderr
    assert len(before - set(proc.marked(demonstration.run))) == 6, "the store and supervisord keep running"
    assert demonstration.make("status").returncode == 0

    stopped = demonstration.make("stop")
    assert stopped.returncode == 0
    assert demonstration.left_behind == []
    assert "nothing is running" in demonstration.make("stop").stdout
    assert demonstration.make("status").returncode == 1


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_sidecar_is_started_again_and_the_recorded_state_is_private(demonstration: Demonstration) -> None:
    assert demonstration.make("start").returncode == 0
    state = demonstration.run / "state.json"
    assert oct(state.stat().st_mode)[-3:] == "600"
    supervisor = Supervisor(Path(json.loads(state.read_text())["SOCKET"]))
    os.kill(supervisor.processes()["proxy2"].pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while demonstration.make("health").returncode or demonstration.make("status").returncode:
        assert time.monotonic() < deadline
    assert demonstration.make("stop").returncode == 0
    assert demonstration.left_behind == []


@pytest.mark.slow
def test_a_port_in_use_is_named_with_its_process_and_a_command_that_works(demonstration: Demonstration) -> None:
    port = demonstration.ports["REDIS_PORT"]
    with closing(socket.create_server(("127.0.0.1", port))):
        refused = demonstration.make("start")
    assert refused.returncode == 1
    assert f"REDIS_PORT={port}" in refused.stderr
    assert f"pid {os.getpid()}" in refused.stderr
    assert f"make start REDIS_URL=redis://localhost:{port}" in refused.stderr
    assert demonstration.left_behind == []


@pytest.mark.slow
def test_the_command_for_several_ports_in_use_names_different_free_ports(demonstration: Demonstration) -> None:
    names = ["PROXY1_PORT", "PROXY2_PORT", "APP3_PORT"]
    with contextlib.ExitStack() as listening:
        for name in names:
            listening.enter_context(closing(socket.create_server(("0.0.0.0", demonstration.ports[name]))))
        refused = demonstration.make("start")
        assert refused.returncode == 1
        (line,) = [line for line in refused.stderr.splitlines() if "use other ports" in line]
        instead = dict(word.split("=") for word in line.split() if "=" in word)
        assert set(instead) == set(names)
        assert len({*instead.values(), *map(str, demonstration.ports.values())}) == len(demonstration.ports) + len(
            names
        )
        assert not [port for port in instead.values() if proc.taken("0.0.0.0", int(port))]


@pytest.mark.slow
def test_a_store_of_redis_url_that_does_not_answer_is_named(demonstration: Demonstration) -> None:
    url = f"redis://127.0.0.1:{demonstration.ports['REDIS_PORT']}"
    refused = demonstration.make("start", REDIS_URL=url)
    assert refused.returncode == 1
    assert url in refused.stderr
    assert demonstration.left_behind == []


@pytest.mark.slow
def test_an_invalid_configuration_starts_nothing(demonstration: Demonstration, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("policies: 7\n")
    refused = demonstration.make("start", CONFIG=str(broken))
    assert refused.returncode == 1
    assert "broken.yaml" in refused.stderr
    assert demonstration.left_behind == []


@pytest.mark.slow
@pytest.mark.long
def test_a_sidecar_that_exits_at_start_stops_everything_and_its_last_log_lines_are_shown(
    demonstration: Demonstration, tmp_path: Path
) -> None:
    # Valid for the check, but not for the process: an address that this machine does not have.
    config = tmp_path / "elsewhere.yaml"
    text = (ROOT / "config.yaml").read_text()
    assert "0.0.0.0" in text
    config.write_text(text.replace("0.0.0.0", "192.0.2.1"))
    died = demonstration.make("start", CONFIG=str(config))
    assert died.returncode == 1
    assert "exited: proxy" in died.stderr
    assert "cannot start" in died.stderr
    assert demonstration.left_behind == []


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_an_interrupted_start_leaves_nothing_behind(demonstration: Demonstration, sign: signal.Signals) -> None:
    with demonstration.begin("start") as start:
        deadline = time.monotonic() + 20
        while len(proc.marked(demonstration.run)) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        start.send_signal(sign)
        output, _ = start.communicate(timeout=LIMIT_S)
    assert start.returncode == 130, output
    assert demonstration.left_behind == []


@pytest.mark.slow
@pytest.mark.long
def test_processes_of_a_killed_supervisor_are_listed_and_stopped(demonstration: Demonstration) -> None:
    assert demonstration.make("start").returncode == 0
    os.kill(int((demonstration.run / "supervisord.pid").read_text()), signal.SIGKILL)
    listed = demonstration.make("status")
    assert listed.returncode == 1
    states = {line.split()[0]: line.split()[1] for line in listed.stdout.splitlines()[1:8]}
    names = ["redis", *(f"{kind}{number}" for kind in ("app", "proxy") for number in (1, 2, 3))]
    assert states == dict.fromkeys(names, "serves"), listed.stdout
    assert "make stop, then make start" in listed.stdout
    stopped = demonstration.make("stop")
    assert stopped.returncode == 0
    assert "earlier run" in stopped.stdout
    assert demonstration.left_behind == []


def test_a_deep_checkout_uses_a_short_private_socket_path(tmp_path: Path) -> None:
    assert socket_path(Path("/short")) == Path("/short/supervisor.sock")
    deep = tmp_path / ("d" * 100)
    path = socket_path(deep)
    assert len(os.fsencode(path)) < 90
    assert oct(path.parent.stat().st_mode)[-3:] == "700"
    forget_socket(path, deep)
    assert not path.parent.exists()
