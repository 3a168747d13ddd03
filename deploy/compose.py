"""Runs the demonstration with Docker Compose."""

import dataclasses
import functools
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

from deploy import probe
from deploy.check import checked
from deploy.local.proc import free_port_above, holder, taken
from deploy.settings import NUMBERS, ROOT, Settings, forget, record
from deploy.terminal import Trouble, colourful, end_ticks, foreground, good, say, step, table, tick

_QUERY_LIMIT_S = 20
_BUILD_LIMIT_S = 1800
# A slow engine may take minutes to recreate two containers. Ending Compose earlier would leave a pair without its
# application.
_RECREATE_LIMIT_S = 600
_HEALTH_DEADLINE_S = 60.0
# Runs inside the container, which has the password. redis-cli would send an empty password and print a warning.
_REDIS_CLI = '[ -z "$REDIS_PASSWORD" ] || export REDISCLI_AUTH="$REDIS_PASSWORD"; exec redis-cli "$@"'
_PROFILE = "observability"
_SERVICES = ("redis", *(f"app{n}" for n in NUMBERS), *(f"proxy{n}" for n in NUMBERS))


@functools.cache
def command() -> tuple[str, ...] | None:
    """Return `docker compose` or `docker-compose`, whichever is installed; None if no engine answers within 3 s."""
    try:
        engine = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=3)
        if engine.returncode or b"Server Version" not in engine.stdout:
            return None
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False, timeout=3)
        if plugin.returncode == 0:
            return ("docker", "compose")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ("docker-compose",) if shutil.which("docker-compose") else None


def running(settings: Settings) -> bool:
    return bool(_output(settings, "ps", "-q").split())


def start(settings: Settings) -> None:
    """Build, start, and return when the sidecars are healthy. On failure, stop everything and raise Trouble."""
    settings = checked(_with_token(settings))
    _check_reach(settings)
    _check_ports(settings)
    step("building the image (the first time takes some minutes)")
    _run(settings, "build", "proxy1", limit_s=_BUILD_LIMIT_S)  # one image for all
    record(settings, RUNTIME="docker")
    try:
        # With REDIS_URL, do not start the Redis of docker-compose.yml.
        more = ["--no-deps", *_SERVICES[1:], *_observers()] if settings.redis_url else []
        _run(settings, "up", "--detach", "--no-build", *more, limit_s=_BUILD_LIMIT_S)
        step("started the containers; waiting until all are healthy")
        _wait_until_healthy(settings)
    except BaseException:
        end_ticks()
        step("stopping what was started")
        stop(settings)
        raise


def stop(settings: Settings) -> bool:
    if not _output(settings, "ps", "--all", "-q").split():
        forget(settings)
        return False
    # Always name the profile: containers that were started with it must stop as well.
    _run(settings, "--profile", _PROFILE, "down", "--remove-orphans", limit_s=_down_limit_s(settings))
    forget(settings)
    return True


def restart(settings: Settings) -> None:
    """Restart one sidecar after the other from a new image: drain, start, wait until healthy, then the next."""
    if not running(settings):
        raise Trouble("nothing is running", "make start")
    settings = checked(settings)
    step("building the image")
    _run(settings, "build", "proxy1", limit_s=_BUILD_LIMIT_S)  # one image for all
    for number in NUMBERS:
        began_s = time.monotonic()
        # The application shares its sidecar's network namespace, so it is recreated after the sidecar. Compose alone
        # would stop the application first, or both at once; the sidecar must drain while its application answers.
        pair = (f"proxy{number}", f"app{number}")
        _run(settings, "stop", pair[0], limit_s=_down_limit_s(settings))
        _run(
            settings,
            "up",
            "--detach",
            "--no-build",
            "--no-deps",
            "--force-recreate",
            *pair,
            limit_s=_RECREATE_LIMIT_S,
        )
        _wait_until_healthy(settings, (number,))
        good(f"{' and '.join(pair)} are back after {time.monotonic() - began_s:.1f} s")


def status(settings: Settings) -> bool:
    found = {container.service: container for container in _containers(settings)}
    if not found:
        say("nothing is running: make start")
        return False
    rows = [("process", "state", "health", "since", "url")]
    for name in _SERVICES:
        if name == "redis" and settings.redis_url:
            rows.append((name, "-", "-", "-", settings.store_url))
            continue
        url = settings.proxy_url(int(name[-1])) if name.startswith("proxy") else _inner_url(settings, name)
        container = found.get(name) or _Container(name, "missing", "-", "-")
        rows.append((name, container.state, container.health, container.since, url))
    for line in table(rows):
        say(line)
    return all(row[1] in {"running", "-"} for row in rows[1:])


def logs(settings: Settings, names: list[str], lines: int, *, follow: bool) -> None:
    options = [*(["--follow"] if follow else []), *([] if colourful(sys.stdout) else ["--no-color"])]
    with foreground():
        try:
            command_line = [*_compose(), "logs", f"--tail={lines}", *options, *names]
            subprocess.run(command_line, cwd=ROOT, env=_env(settings), check=False)
        except KeyboardInterrupt:
            say()


def redis_cli(settings: Settings, arguments: list[str]) -> int:
    terminal = os.isatty(0) and not arguments
    with foreground():
        options = [] if terminal else ["-T"]
        command_line = [*_compose(), "exec", *options, "redis", "sh", "-c", _REDIS_CLI, "redis-cli", *arguments]
        try:
            return subprocess.run(command_line, cwd=ROOT, env=_env(settings), check=False).returncode
        except KeyboardInterrupt:
            return 0


@dataclass(frozen=True, slots=True)
class _Container:
    service: str
    state: str
    health: str
    since: str


def _containers(settings: Settings) -> list[_Container]:
    ids = _output(settings, "ps", "-q").split()
    if not ids:
        return []
    done = subprocess.run(["docker", "inspect", *ids], capture_output=True, check=False, timeout=_QUERY_LIMIT_S)
    return [
        _Container(
            service=each["Config"]["Labels"]["com.docker.compose.service"],
            state=each["State"]["Status"],
            health=each["State"].get("Health", {}).get("Status", "-"),
            since=each["State"]["StartedAt"].partition(".")[0].replace("T", " "),
        )
        for each in json.loads(done.stdout)
    ]


def _inner_url(settings: Settings, name: str) -> str:
    return settings.store_url if name == "redis" else f"(inside proxy{name[-1]} only)"


def _wait_until_healthy(settings: Settings, numbers: Iterable[int] = NUMBERS) -> None:
    began_s = time.monotonic()
    waiting = {f"proxy{number}": f"{settings.proxy_url(number)}/health" for number in numbers}
    while waiting:
        answers = {name: probe.get(url) for name, url in waiting.items()}
        waiting = {name: url for name, url in waiting.items() if not answers[name].good}
        ended = [each.service for each in _containers(settings) if each.state in {"exited", "dead", "restarting"}]
        passed_s = time.monotonic() - began_s
        if ended or (waiting and passed_s > _HEALTH_DEADLINE_S):
            reports = [f"{name}: {answers[name].text}" for name in waiting]
            tail = _output(settings, "logs", "--no-color", "--tail=12", *(ended or waiting)).splitlines()
            fault = f"exited: {', '.join(ended)}" if ended else f"not healthy in time: {', '.join(waiting)}"
            raise Trouble(fault, *reports, *tail)
        tick(f"{passed_s:.0f} s, waiting for {', '.join(waiting)}")
        time.sleep(0.3)
    end_ticks()


def _with_token(settings: Settings) -> Settings:
    """The admin listeners accept connections from outside their containers, which requires a token."""
    return dataclasses.replace(settings, admin_token=settings.admin_token or secrets.token_hex(16))


def _observers() -> tuple[str, ...]:
    return ("prometheus", "grafana") if _PROFILE in os.environ.get("COMPOSE_PROFILES", "").split(",") else ()


def _check_reach(settings: Settings) -> None:
    host = settings.store_url.partition("://")[2].rpartition("@")[2]
    if settings.redis_url and host.startswith(("localhost", "127.", "[::1]")):
        raise Trouble(
            f"REDIS_URL={settings.redis_url}: inside a container, {host.partition(':')[0]} is the container itself",
            "use an address that containers can reach, or RUNTIME=local",
        )
    for path in (settings.config, settings.config.parent):
        if not path.stat().st_mode & 0o004:
            raise Trouble(f"the container's user cannot read {path}", f"chmod a+rX {path}")


def _check_ports(settings: Settings) -> None:
    names = [f"{kind}{number}_PORT" for kind in ("PROXY", "ADMIN") for number in NUMBERS]
    names += [] if settings.redis_url else ["REDIS_PORT"]
    rows, elsewhere = [], dict[str, int]()
    for name in names:
        port = settings.ports[name]
        if taken("0.0.0.0" if name.startswith("PROXY") else "127.0.0.1", port):
            elsewhere[name] = free_port_above(port, {*settings.ports.values(), *elsewhere.values()})
            rows.append((f"{name}={port}", f"is used by {holder(port)}"))
    if rows:
        instead = " ".join(f"{name}={port}" for name, port in elsewhere.items())
        raise Trouble(
            "ports are in use, so nothing was started:", *table(rows), f"use other ports:  make start {instead}"
        )


def _compose() -> tuple[str, ...]:
    found = command()
    if not found:
        raise Trouble("no Docker engine answers, or Compose is missing", "start Docker, or use RUNTIME=local")
    return found


def _output(settings: Settings, *arguments: str) -> str:
    done = subprocess.run(
        [*_compose(), *arguments],
        cwd=ROOT,
        env=_env(settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=_QUERY_LIMIT_S,
    )
    if done.returncode:
        raise Trouble(f"docker compose {' '.join(arguments)} failed:", *done.stderr.splitlines()[-10:])
    return done.stdout


def _run(settings: Settings, *arguments: str, limit_s: float) -> None:
    done = subprocess.run(
        [*_compose(), *arguments],
        cwd=ROOT,
        env=_env(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
        timeout=limit_s,
    )
    if done.returncode:
        raise Trouble(f"docker compose {' '.join(arguments)} failed:", *done.stdout.splitlines()[-20:])


def _down_limit_s(settings: Settings) -> float:
    return 3 * (settings.stop_wait_s + 5)


def _env(settings: Settings) -> dict[str, str]:
    ports = {name: str(port) for name, port in settings.ports.items()}
    more = {"CONFIG_DIR": str(settings.config.parent), "CONFIG_NAME": settings.config.name}
    more["STOP_GRACE_PERIOD"] = f"{settings.stop_wait_s}s"
    more["REDIS_URL"] = settings.redis_url or ""
    more["REDIS_PASSWORD"] = settings.redis_password
    # There is no token until the demonstration runs; then the listeners stay on loopback.
    more["ADMIN_HOST"] = "0.0.0.0" if settings.admin_token else "127.0.0.1"
    more["ADMIN_TOKEN"] = settings.admin_token
    return {**os.environ, **ports, **more}
