"""Starts, stops, restarts and lists the local processes.

If `start` fails or is interrupted, it stops everything again. After SIGKILL its processes stay; the next `start` or
`stop` finds them by their mark and ends them.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from deploy import probe
from deploy.check import checked
from deploy.local import proc
from deploy.local.services import Service, services, valkey_conf
from deploy.local.supervise import Process, Supervisor, forget_socket, launch, socket_path
from deploy.settings import HEALTH_DEADLINE_S, NUMBERS, Settings, forget, record, recorded
from deploy.terminal import Trouble, end_ticks, good, say, step, table, tick

_GROUPS = 3  # supervisord stops one after the other: sidecars, applications, store
_LOG_LINES = 12


def running(settings: Settings) -> Supervisor | None:
    path = recorded(settings.run).get("SOCKET")
    supervisor = Supervisor(Path(path)) if path else None
    return supervisor if supervisor and supervisor.answers() else None


def start(settings: Settings) -> None:
    """Start all processes and return when they are healthy. On failure, stop them and raise Trouble."""
    _end_leftovers(settings)
    settings = checked(settings)
    check_ports(settings, services(settings))
    if settings.redis_url:
        step(f"using the Redis of REDIS_URL: {settings.redis_url.rpartition('@')[2]}")
        _check_store(settings)
    _begin_logs(settings.run / "logs")
    conf = settings.run / "valkey.conf"
    conf.touch(mode=0o600)
    conf.write_text(valkey_conf(settings))
    path = socket_path(settings.run)
    record(settings, RUNTIME="local", SOCKET=str(path))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        wanted = services(settings)
        launch(settings.run, path, wanted, _environment(settings), settings.stop_wait_s)
        step(f"started {', '.join(service.name for service in wanted)}; waiting until all are healthy")
        _wait_until_healthy(Supervisor(path), settings)
    except BaseException:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_ticks()
        step("stopping what was started")
        # No request is in flight yet: nothing has to drain.
        if not proc.end_marked(settings.run):
            stop(settings)
        _forget(settings)
        raise


def stop(settings: Settings) -> bool:
    """Stop the processes that `start` started; return False if there were none."""
    supervisor = running(settings)
    if supervisor:
        pid = supervisor.pid()
        supervisor.shut_down()
        if not proc.wait_for_end([pid], _GROUPS * settings.stop_wait_s + 5):
            raise Trouble(
                f"supervisord (pid {pid}) does not end", f"see its log: {settings.run / 'logs/supervisord.log'}"
            )
    leftover = _end_leftovers(settings)
    return supervisor is not None or leftover


def restart(settings: Settings) -> None:
    """Restart one pair of sidecar and application after the other: drain, start, wait until healthy, then the next."""
    supervisor = running(settings)
    if not supervisor:
        raise Trouble("nothing is running", "make start")
    checked(settings)
    for number in NUMBERS:
        began_s = time.monotonic()
        processes = supervisor.processes()
        for name in (f"proxy{number}", f"app{number}"):
            if processes[name].state in {"RUNNING", "STARTING", "BACKOFF"}:
                supervisor.stop(processes[name], limit_s=settings.stop_wait_s + 5)
        for name in (f"app{number}", f"proxy{number}"):
            supervisor.start(processes[name])
        _wait_until_healthy(supervisor, settings, (number,))
        good(f"proxy{number} and app{number} are back after {time.monotonic() - began_s:.1f} s")


def status(settings: Settings) -> bool:
    """Print a table of the processes; return whether all are running."""
    supervisor = running(settings)
    if not supervisor:
        _list_leftovers(settings)
        return False
    processes = supervisor.processes()
    rows = [("process", "state", "pid", "uptime", "url")]
    for service in services(settings):
        process = processes[service.name]
        uptime = f"{process.uptime_s // 60} min {process.uptime_s % 60} s" if process.runs else "-"
        rows.append((service.name, process.state.lower(), str(process.pid or "-"), uptime, service.url))
    for line in table(rows):
        say(line)
    return all(process.runs for process in processes.values())


def _list_leftovers(settings: Settings) -> None:
    """Print the processes of a killed supervisord, which go on serving."""
    pids = proc.marked(settings.run)
    if not pids:
        say("nothing is running: make start")
        return
    rows = [("process", "state", "pid", "url")]
    for service in services(settings):
        pid = proc.listener(pids, settings.ports[service.port])
        rows.append((service.name, "serves" if pid else "-", str(pid or "-"), service.url))
    for line in table(rows):
        say(line)
    say("supervisord has ended, so nothing restarts these: make stop, then make start")


def check_ports(settings: Settings, wanted: list[Service]) -> None:
    """Raise Trouble if ports are in use; names their processes and one command with free ports for all of them."""
    rows, elsewhere = [], dict[str, int]()
    for service in wanted:
        for name in (service.port, *service.more_ports):
            port = settings.ports[name]
            if proc.taken(service.host if name == service.port else "127.0.0.1", port):
                elsewhere[name] = proc.free_port_above(port, {*settings.ports.values(), *elsewhere.values()})
                rows.append((f"{name}={port}", f"is used by {proc.holder(port)}"))
    if not rows:
        return
    advice = [f"use {'another port' if len(rows) == 1 else 'other ports'}:  make start {_assignments(elsewhere)}"]
    if "REDIS_PORT" in elsewhere:
        del elsewhere["REDIS_PORT"]
        url = f"REDIS_URL=redis://localhost:{settings.ports['REDIS_PORT']}"
        advice.append(f"or use the store at that port:  make start {' '.join([url, _assignments(elsewhere)]).strip()}")
    raise Trouble(
        f"{'a port is' if len(rows) == 1 else 'ports are'} in use, so nothing was started:", *table(rows), *advice
    )


def _assignments(ports: Mapping[str, int]) -> str:
    return " ".join(f"{name}={port}" for name, port in ports.items())


def _check_store(settings: Settings) -> None:
    from deploy import store  # noqa: PLC0415  needs redis-py, which only .venv has

    store.ping(settings)


def _environment(settings: Settings) -> dict[str, str]:
    more = {
        "REDIS_URL": settings.store_url,
        "REDIS_PASSWORD": settings.redis_password,
        "ADMIN_TOKEN": settings.admin_token,
        "CONFIG": str(settings.config),
        "PYTHONUNBUFFERED": "1",
    }
    return {**os.environ, **more}


def _wait_until_healthy(supervisor: Supervisor, settings: Settings, numbers: tuple[int, ...] = NUMBERS) -> None:
    began_s = time.monotonic()
    first_pids: dict[str, int] = {}
    names = {"redis", *(f"{kind}{number}" for kind in ("app", "proxy") for number in numbers)}
    waiting = {f"proxy{number}": f"{settings.proxy_url(number)}/health" for number in numbers}
    while True:
        watched = [process for process in _processes(supervisor, began_s) if process.name in names]
        _raise_if_any([each for each in watched if each.failed or _was_restarted(each, first_pids)], settings)
        answers = {name: probe.get(url) for name, url in waiting.items()}
        waiting = {name: url for name, url in waiting.items() if not answers[name].good}
        passed_s = time.monotonic() - began_s
        # Also past `startsecs`: before that, supervisord counts an exit as a failed start.
        if not waiting and all(process.runs for process in watched):
            end_ticks()
            return
        if passed_s > HEALTH_DEADLINE_S:
            reports = [line for name in waiting for line in (f"{name}: {answers[name].text}", *_tail(settings, name))]
            raise Trouble(f"not healthy within {HEALTH_DEADLINE_S:.0f} s: {', '.join(waiting)}", *reports)
        tick(f"{passed_s:.0f} s, waiting for {', '.join(waiting)}")
        time.sleep(0.1)


def _processes(supervisor: Supervisor, began_s: float) -> list[Process]:
    """Return the processes; waits for a supervisord that does not answer yet, then raises Trouble."""
    while True:
        try:
            return list(supervisor.processes().values())
        except OSError as fault:
            if time.monotonic() - began_s > HEALTH_DEADLINE_S:
                raise Trouble(f"supervisord does not answer: {fault}") from fault
            time.sleep(0.05)


def _was_restarted(process: Process, first_pids: dict[str, int]) -> bool:
    """Whether its process id changed since the first call."""
    return bool(process.pid) and first_pids.setdefault(process.name, process.pid) != process.pid


def _raise_if_any(ended: list[Process], settings: Settings) -> None:
    lines: list[str] = []
    for process in ended:
        why = f"exit status {process.exit_status}" if process.exit_status else process.spawn_fault or "ended"
        lines += [f"{process.name}: {why}; the end of {_log(settings, process.name)}:", *_tail(settings, process.name)]
    if ended:
        raise Trouble(f"exited: {', '.join(process.name for process in ended)}", *lines)


def _begin_logs(folder: Path) -> None:
    """Create an empty folder for logs; keeps that of the previous run beside it."""
    if folder.exists():
        before = folder.with_name("logs-before")
        shutil.rmtree(before, ignore_errors=True)
        folder.rename(before)
    folder.mkdir()


def _log(settings: Settings, name: str) -> Path:
    return settings.run / "logs" / f"{name}.log"


def _tail(settings: Settings, name: str) -> Iterator[str]:
    try:
        lines = _log(settings, name).read_text(errors="replace").splitlines()
    except OSError:
        return
    yield from (f"  | {line}" for line in lines[-_LOG_LINES:])


def _end_leftovers(settings: Settings) -> bool:
    """End processes of a killed supervisord or `make start`, and remove the files of that run except logs."""
    pids = proc.marked(settings.run)
    if pids:
        step(f"ending processes of an earlier run: {', '.join(map(str, pids))}")
        proc.end_marked(settings.run)
    _forget(settings)
    return bool(pids)


def _forget(settings: Settings) -> None:
    known = recorded(settings.run).get("SOCKET")
    if known:
        forget_socket(Path(known), settings.run)
    for name in ("valkey.conf", "supervisord.conf", "supervisord.pid"):
        (settings.run / name).unlink(missing_ok=True)
    forget(settings)


def remove(settings: Settings) -> None:
    shutil.rmtree(settings.run, ignore_errors=True)
