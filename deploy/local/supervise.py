"""Configures and starts supervisord, and calls it over its Unix socket."""

import http.client
import os
import resource
import shlex
import socket
import subprocess
import sys
import tempfile
import xmlrpc.client
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.services import Service
from deploy.terminal import Trouble

_CALL_LIMIT_S = 10.0
# A Unix socket's path has at most 107 bytes, and supervisord first binds a longer one that ends with its process id.
_LONGEST_SOCKET_NAME = 107 - len(".4194304")
_FAILED = {"BACKOFF", "EXITED", "FATAL", "UNKNOWN"}
# A sidecar needs one socket per client and one per request at the application.
_OPEN_FILES = 65536

_HEAD = """\
; Written by `make start`, which overwrites edits.
[unix_http_server]
file = {socket}
chmod = 0700

[supervisord]
pidfile = supervisord.pid
logfile = logs/supervisord.log
logfile_maxbytes = 1MB
logfile_backups = 1
childlogdir = logs
minfds = {open_files}
umask = 027

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""

_PROGRAM = """
[program:{name}]
command = {command}
environment = {environment}
autorestart = true
startsecs = 1
startretries = 5
stopsignal = TERM
stopwaitsecs = {stop_wait_s}
redirect_stderr = true
stdout_logfile = logs/{name}.log
stdout_logfile_maxbytes = 5MB
stdout_logfile_backups = 2
"""


@dataclass(frozen=True, slots=True)
class Process:
    """The state of one process, as supervisord reports it."""

    name: str
    group: str
    state: str
    pid: int
    uptime_s: int
    exit_status: int
    spawn_fault: str

    @property
    def runs(self) -> bool:
        return self.state == "RUNNING"

    @property
    def failed(self) -> bool:
        return self.state in _FAILED


class Supervisor:
    """A client of supervisord. Every call raises OSError if supervisord does not answer."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = str(socket_path)

    def answers(self) -> bool:
        try:
            self.pid()
        except OSError:
            return False
        return True

    def pid(self) -> int:
        return int(str(self._call("supervisor.getPID")))

    def processes(self) -> dict[str, Process]:
        found = self._call("supervisor.getAllProcessInfo")
        if not isinstance(found, list):
            raise OSError("supervisord's answer is not a list")
        return {process.name: process for process in map(_process, found)}

    def start(self, process: Process) -> None:
        """Start a process without waiting; `processes` shows the result."""
        self._call("supervisor.startProcess", f"{process.group}:{process.name}", False)

    def stop(self, process: Process, limit_s: float) -> None:
        """Stop a process and wait until it has ended."""
        self._call("supervisor.stopProcess", f"{process.group}:{process.name}", True, limit_s=limit_s)

    def shut_down(self) -> None:
        self._call("supervisor.shutdown")

    def _call(self, method: str, *arguments: object, limit_s: float = _CALL_LIMIT_S) -> object:
        body = xmlrpc.client.dumps(arguments, method)  # type: ignore[arg-type]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected:
            connected.settimeout(limit_s)
            connected.connect(self._socket_path)
            connection = http.client.HTTPConnection("localhost")
            connection.sock = connected
            try:
                connection.request("POST", "/RPC2", body, {"Content-Type": "text/xml"})
                (result,), _ = xmlrpc.client.loads(connection.getresponse().read())
            except (http.client.HTTPException, xmlrpc.client.Error) as fault:
                raise OSError(f"{method}: {fault}") from fault
        return result


def launch(
    run: Path, socket_path: Path, services: list[Service], environment: Mapping[str, str], stop_wait_s: int
) -> None:
    """Start supervisord in the background with all services."""
    conf = run / "supervisord.conf"
    conf.write_text(_conf(socket_path, services, stop_wait_s))
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(conf)],
        cwd=run,
        env={**environment, "SIDEGATE_RUN": str(run)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        check=False,
        timeout=_CALL_LIMIT_S,
        text=True,
    )
    if done.returncode:
        raise Trouble("supervisord does not start", *done.stdout.splitlines()[-10:])


def socket_path(run: Path) -> Path:
    """Return a path in `run`, or in a new private temporary folder if that path would be too long."""
    path = run / "supervisor.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_NAME:
        return path
    return Path(tempfile.mkdtemp(prefix="sidegate-")) / path.name


def forget_socket(path: Path, run: Path) -> None:
    path.unlink(missing_ok=True)
    if path.parent != run and path.parent.name.startswith("sidegate-") and path.parent.is_dir():
        path.parent.rmdir()


def _conf(socket_path: Path, services: list[Service], stop_wait_s: int) -> str:
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files = _OPEN_FILES if hard_limit == resource.RLIM_INFINITY else min(_OPEN_FILES, hard_limit)
    parts = [_HEAD.format(socket=_escaped(str(socket_path)), open_files=open_files)]
    parts += [
        _PROGRAM.format(
            name=service.name,
            command=_escaped(shlex.join(service.command)),
            environment=",".join(f'{name}="{value}"' for name, value in service.environment.items()),
            stop_wait_s=stop_wait_s,
        )
        for service in services
    ]
    # supervisord stops one group after the other, the highest priority first, and the members of a group together.
    for priority, group in enumerate(dict.fromkeys(service.group for service in services), start=1):
        members = ",".join(service.name for service in services if service.group == group)
        parts.append(f"\n[group:{group}]\nprograms = {members}\npriority = {priority}\n")
    return "".join(parts)


def _escaped(text: str) -> str:
    if " ;" in text or " #" in text:
        raise Trouble(f"supervisord would read a part of this as a comment: {text}", "rename the folder")
    return text.replace("%", "%%")


def _process(info: Mapping[str, object]) -> Process:
    running = info["statename"] == "RUNNING"
    return Process(
        name=str(info["name"]),
        group=str(info["group"]),
        state=str(info["statename"]),
        pid=int(str(info["pid"])),
        uptime_s=int(str(info["now"])) - int(str(info["start"])) if running else 0,
        exit_status=int(str(info["exitstatus"])),
        spawn_fault=str(info["spawnerr"]),
    )
