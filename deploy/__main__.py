"""`python -m deploy COMMAND`: implements the Makefile's targets.

Exit status: 0 success, 1 failure, 2 wrong usage, 130 interrupted. All but `store` uses only the standard library,
so that `make stop` and `make clean` work without .venv.
"""

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from deploy import charts, compose, install, logs, probe
from deploy.local import runtime as local
from deploy.settings import NUMBERS, ROOT, Settings, load, record, recorded
from deploy.terminal import Trouble, complain, good, paint, say, step

_LOCK_LIMIT_S = 180
_CACHES = ("build", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis")


class Runtime(Protocol):
    """Operations that both runtimes implement. Each raises Trouble if the user has to act."""

    def running(self, settings: Settings) -> object: ...
    def start(self, settings: Settings) -> None: ...
    def stop(self, settings: Settings) -> bool: ...
    def restart(self, settings: Settings) -> None: ...
    def status(self, settings: Settings) -> bool: ...


def main(arguments: list[str]) -> int:
    command, *rest = arguments or ["?"]
    if command not in _COMMANDS:
        say(f"usage: python -m deploy {' | '.join(_COMMANDS)}")
        return 2
    try:
        return _COMMANDS[command](rest)
    except Trouble as trouble:
        complain(trouble)
        return 1
    except subprocess.TimeoutExpired as late:
        command_line = shlex.join(map(str, late.cmd))
        complain(
            Trouble(
                f"did not end within {late.timeout:.0f} s: {command_line}",
                f"see make status, then repeat: make {command}",
            )
        )
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:  # `make redis-keys | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _install(_: list[str]) -> int:
    install.install()
    return 0


def _install_dev(_: list[str]) -> int:
    install.install_dev()
    return 0


def _applications(_: list[str]) -> int:
    install.applications()
    return 0


def _bench_tools(_: list[str]) -> int:
    install.bench_tools()
    return 0


def _helm(_: list[str]) -> int:
    say(charts.fetch_helm())
    return 0


def _kubernetes(_: list[str]) -> int:
    charts.write_base()
    return 0


def _start(_: list[str]) -> int:
    with _exclusive():
        settings = load(os.environ)
        runtime = _runtime(settings)
        if runtime.running(settings):
            if not recorded(settings.run):
                record(settings, RUNTIME=_name(settings))
            say("already running:")
            return 0 if runtime.status(settings) else 1
        settings = load(os.environ, afresh=True)
        _runtime(settings).start(settings)
    good(f"all healthy ({_name(settings)})")
    _print_next_steps(load(os.environ))
    return 0


def _stop(_: list[str]) -> int:
    with _exclusive():
        settings = load(os.environ)
        stopped = _runtime(settings).stop(settings)
    if stopped:
        good("stopped")
    else:
        say("nothing is running")
    return 0


def _restart(_: list[str]) -> int:
    with _exclusive():
        settings = load(os.environ)
        _runtime(settings).restart(settings)
    return 0


def _status(_: list[str]) -> int:
    settings = load(os.environ)
    return 0 if _runtime(settings).status(settings) else 1


def _health(_: list[str]) -> int:
    answers = probe.health(load(os.environ))
    for name, answer in answers.items():
        try:
            report = json.loads(answer.text)
        except ValueError:
            report = answer.text
        print(json.dumps({"sidecar": name, "status": answer.status, "health": report}))
    return 0 if all(answer.good for answer in answers.values()) else 1


def _logs(names: list[str]) -> int:
    settings = load(os.environ)
    lines = int(os.environ.get("LINES") or 20)
    follow = os.environ.get("FOLLOW", "1" if sys.stdout.isatty() else "0") != "0"
    if _runtime(settings) is compose:
        compose.logs(settings, names, lines, follow=follow)
        return 0
    folder = settings.run / "logs"
    wanted = names or sorted(path.stem for path in folder.glob("*.log") if path.stem != "supervisord")
    if not all((folder / f"{name}.log").exists() for name in wanted) or not wanted:
        raise Trouble(f"no log of {' '.join(names) or 'any process'} in {folder}", "make start writes logs")
    logs.show({name: folder / f"{name}.log" for name in wanted}, lines, follow=follow)
    return 0


def _redis_keys(_: list[str]) -> int:
    from deploy import store  # noqa: PLC0415  needs redis-py, which only .venv has

    store.keys(load(os.environ), os.environ.get("PATTERN") or "example:*")
    return 0


def _redis_cli(arguments: list[str]) -> int:
    from deploy import store  # noqa: PLC0415  needs redis-py, which only .venv has

    settings = load(os.environ)
    arguments = arguments or shlex.split(os.environ.get("ARGS", ""))
    if _runtime(settings) is compose and not settings.redis_url:
        return compose.redis_cli(settings, arguments)
    return store.prompt(settings, arguments)


def _running(_: list[str]) -> int:
    """Check that the three sidecars accept connections, before anything is installed or loaded."""
    urls = [load(os.environ).proxy_url(number) for number in NUMBERS]
    if silent := [url for url in urls if not probe.accepts(url)]:
        raise Trouble(f"no sidecar listens at {', '.join(silent)}", "start the demonstration first: make start")
    return 0


def _load(arguments: list[str]) -> int:
    """Run the load script against the running sidecars."""
    settings = load(os.environ)
    environment = {"PROXY_URLS": ",".join(settings.proxy_url(number) for number in NUMBERS), **os.environ}
    command = [sys.executable, "-m", "benchmarks.load", *arguments, *shlex.split(os.environ.get("ARGS", ""))]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def _top(arguments: list[str]) -> int:
    """Run `sidegate top` on the admin listeners of the running sidecars."""
    settings = load(os.environ)
    urls = [settings.admin_url(number) for number in NUMBERS]
    command = [sys.executable, "-m", "sidegate", "top", *(word for url in urls for word in ("--admin", url))]
    command += [*arguments, *shlex.split(os.environ.get("ARGS", ""))]
    environment = {**os.environ, "ADMIN_TOKEN": settings.admin_token}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def _clean(_: list[str]) -> int:
    _stop([])
    settings = load(os.environ)
    for name in (".venv", ".venv-tools", ".venv-bench", ".venv-apps", ".venv-helm", *_CACHES):
        shutil.rmtree(ROOT / name, ignore_errors=True)
    for folder in ("proxy", "upstream_app", "deploy", "benchmarks", "tests"):
        for cache in (ROOT / folder).rglob("__pycache__"):
            shutil.rmtree(cache, ignore_errors=True)
    local.remove(settings)
    good("removed .venv, .venv-tools, .venv-bench, .venv-apps, .venv-helm, .run and the caches")
    return 0


def _runtime(settings: Settings) -> Runtime:
    return compose if _name(settings) == "docker" else local


def _name(settings: Settings) -> str:
    match settings.runtime:
        case "docker" | "local":
            return settings.runtime
        case None:
            return "docker" if compose.command() else "local"
        case other:
            raise Trouble(f"RUNTIME={other}: expected docker or local")


@contextlib.contextmanager
def _exclusive() -> Iterator[None]:
    """Hold the folder's lock, so that one start, stop or restart runs at a time."""
    settings = load(os.environ)
    settings.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    with settings.lock_path.open("w") as lock:
        deadline = time.monotonic() + _LOCK_LIMIT_S
        announced = False
        while not _locked(lock.fileno()):
            if not announced:
                step("waiting for another start, stop or restart in this folder")
                announced = True
            if time.monotonic() > deadline:
                raise Trouble(
                    f"the other command did not end within {_LOCK_LIMIT_S} s",
                    f"find the process that holds the lock: fuser {settings.lock_path}",
                )
            time.sleep(0.1)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _print_next_steps(settings: Settings) -> None:
    urls = [settings.proxy_url(number).replace("127.0.0.1", "localhost") for number in NUMBERS]
    token = f"  (token {settings.admin_token})" if settings.admin_token else ""
    say(f"""
  sidecars  {"  ".join(urls)}
  admin     {"  ".join(settings.admin_url(number).replace("127.0.0.1", "localhost") for number in NUMBERS)}{token}
  store     {settings.store_url.rpartition("@")[2]}

{paint("try next", "bold")}
  curl -i -H "X-User-ID: alice" {urls[0]}/api/data
  curl -H "X-User-ID: alice" {urls[1]}/api/status
  make test            15 requests of one user over the three sidecars: 10 pass, 5 are refused
  $EDITOR {os.path.relpath(settings.config, ROOT)}  a valid edit takes effect within two seconds
  make logs, make status, make stop""")


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "install": _install,
    "install-dev": _install_dev,
    "bench-tools": _bench_tools,
    "applications": _applications,
    "helm": _helm,
    "kubernetes": _kubernetes,
    "start": _start,
    "stop": _stop,
    "restart": _restart,
    "status": _status,
    "health": _health,
    "running": _running,
    "load": _load,
    "logs": _logs,
    "redis-keys": _redis_keys,
    "redis-cli": _redis_cli,
    "top": _top,
    "clean": _clean,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
