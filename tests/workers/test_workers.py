"""A sidecar of several processes, from the view of operators and clients."""

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from sidegate.workers.parent import HUNG_AFTER_S, hold_port

from tests.raw_client import RawClient, get, request
from tests.recorder import Act, Recorder, eventually
from tests.servers import StoreServer, free_port
from tests.sidecar import Sidecar, configuration, run_command, spent

pytestmark = pytest.mark.slow


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.stop()


@pytest.fixture
def pair(store_server: StoreServer, recorder: Recorder) -> Iterator[Sidecar]:
    config = configuration(store_server.url, recorder.url, listen={"port": free_port(), "workers": 2})
    with Sidecar(config) as sidecar:
        sidecar.wait_for_event("workers_ready")
        yield sidecar


def pids(sidecar: Sidecar) -> dict[int, int]:
    """The workers' process ids as last told, by number."""
    return {line["worker"]: line["pid"] for line in sidecar.events("started")}


def allowed(sidecar: Sidecar) -> float:
    text = get(sidecar.admin_port, "/metrics").body.decode()
    found = [line for line in text.splitlines() if 'policy="roomy"' in line and 'outcome="allowed"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def test_workers_share_the_port_the_buckets_and_the_metrics_and_end_together(
    pair: Sidecar, store_server: StoreServer
) -> None:
    for _ in range(30):  # each on a connection of its own, which the kernel gives to one of them
        assert get(pair.port, "/a", "X-User-ID: ann").status == 200
    assert spent(store_server) == {"ann": 30}
    eventually(lambda: allowed(pair) == 30, "the sum of what both workers counted")
    pair.ask_to_stop()
    assert pair.wait() == 0
    assert len(pair.events("stopped")) == 2


@pytest.mark.long
def test_a_dead_worker_is_restarted_and_its_counts_stay(pair: Sidecar) -> None:
    pair.may_complain = True  # worker_died is an error
    for _ in range(20):
        assert get(pair.port, "/a", "X-User-ID: ann").status == 200
    eventually(lambda: allowed(pair) == 20, "the sum of what both workers counted")
    os.kill(pids(pair)[1], signal.SIGKILL)
    pair.wait_for_event("worker_died")
    pair.wait_for_event("started", 3)
    assert len({line["pid"] for line in pair.events("started")}) == 3
    assert get(pair.port, "/a", "X-User-ID: ann").status == 200
    eventually(lambda: allowed(pair) == 21, "no count lost")
    assert pair.events("worker_died")[0]["status"] == -signal.SIGKILL


@pytest.mark.long
def test_a_worker_that_hangs_is_replaced(pair: Sidecar) -> None:
    pair.may_complain = True  # worker_hung and worker_died are errors
    hung = pids(pair)[1]
    os.kill(hung, signal.SIGSTOP)
    pair.wait_for_event("worker_hung")
    pair.wait_for_event("started", 3)
    (line,) = pair.events("worker_hung")
    assert line["pid"] == hung
    # The parent looks each second, or counts anew where it came more than 2.5 s late.
    assert HUNG_AFTER_S < line["silent_s"] <= HUNG_AFTER_S * 1.5
    assert not Path(f"/proc/{hung}").exists()
    eventually(lambda: get(pair.admin_port, "/readyz").status == 200, "a ready sidecar")
    # The kernel gives new connections to both again, and none waits for the one that hung.
    assert [get(pair.port, "/a", "X-User-ID: ann").status for _ in range(20)] == [200] * 20


def test_a_hangup_reloads_every_worker(pair: Sidecar) -> None:
    os.kill(pair.pid, signal.SIGHUP)
    pair.wait_for_event("config_reloaded", 2)


def test_the_requests_of_all_workers_end_before_the_parent_does(pair: Sidecar, recorder: Recorder) -> None:
    recorder.always(Act.HOLD, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(pair.port)) for _ in range(6)]
        for client in clients:
            client.send(request("/slow", "X-User-ID: ann"))
        recorder.wait_for(6)
        pair.ask_to_stop()
        pair.wait_for_event("draining", 2)
        recorder.release()
        assert [client.reply().status for client in clients] == [200] * 6
    assert pair.wait() == 0


def test_workers_end_when_their_parent_is_killed(pair: Sidecar) -> None:
    pair.may_complain = True
    known = list(pids(pair).values())
    pair.process.kill()
    pair.process.wait(10)

    def all_gone() -> bool:
        return not any(Path(f"/proc/{pid}").exists() for pid in known)

    eventually(all_gone, "no worker left")


def test_a_worker_that_cannot_start_ends_the_parent_with_a_log_line(store_server: StoreServer, tmp_path: Path) -> None:
    taken = free_port()
    with hold_port("127.0.0.1", taken) as held:
        held.listen()
        config = configuration(store_server.url, "http://127.0.0.1:9", listen={"workers": 2}, admin={"port": taken})
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config), "utf-8")
        done = run_command("run", "--config", str(path))
    assert done.returncode == 1
    assert "worker_cannot_start" in done.stdout
    assert f"cannot start: [Errno {errno.EADDRINUSE}]" in done.stderr


def test_a_port_that_others_share_is_taken() -> None:
    port = free_port()
    with hold_port("127.0.0.1", port) as held:
        held.listen()
        with pytest.raises(OSError, match="in use"):
            hold_port("127.0.0.1", port)


def test_an_invalid_number_of_workers_is_reported(tmp_path: Path) -> None:
    for wrong in ("0", "many", "1.5"):
        path = tmp_path / "config.yaml"
        path.write_text(f"listen: {{workers: {wrong}}}\npolicies: []\n", "utf-8")
        done = run_command("check", str(path))
        assert done.returncode == 1
        assert f"listen.workers: {wrong}" in done.stderr.replace("'", "")
        assert "or auto" in done.stderr
