"""Settings of the demonstration: ports, folders, the store. From the environment; kept in `.run` while it runs."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.terminal import Trouble

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = (1, 2, 3)
HEALTH_DEADLINE_S = 30.0
_DRAIN_TIMEOUT_S = "20"  # the default of listen.drain_timeout

_DEFAULT_PORTS = {
    "REDIS_PORT": 6379,
    **{f"PROXY{n}_PORT": 8080 + n for n in NUMBERS},
    **{f"ADMIN{n}_PORT": 9080 + n for n in NUMBERS},
    **{f"APP{n}_PORT": 9000 + n for n in NUMBERS},
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one demonstration. `redis_url` is None if the demonstration starts its own store."""

    run: Path
    config: Path
    ports: Mapping[str, int]
    redis_url: str | None
    redis_password: str
    admin_token: str
    runtime: str | None
    drain_timeout_s: float

    @property
    def store_url(self) -> str:
        return self.redis_url or f"redis://127.0.0.1:{self.ports['REDIS_PORT']}"

    def admin_url(self, number: int) -> str:
        return f"http://127.0.0.1:{self.ports[f'ADMIN{number}_PORT']}"

    def proxy_url(self, number: int) -> str:
        return f"http://127.0.0.1:{self.ports[f'PROXY{number}_PORT']}"

    @property
    def stop_wait_s(self) -> int:
        """Seconds that a sidecar may take to end: `listen.drain_timeout` of config.yaml and a margin."""
        return math.ceil(self.drain_timeout_s) + 5

    @property
    def lock_path(self) -> Path:
        return self.run / "lock"

    @property
    def state_path(self) -> Path:
        return self.run / "state.json"


def load(environ: Mapping[str, str], *, afresh: bool = False) -> Settings:
    """Return the recorded settings if something runs (unless `afresh`), else those of the environment."""
    run = (ROOT / (environ.get("RUN_DIR") or ".run")).absolute()
    given = {**environ, **({} if afresh else recorded(run))}
    ports = {name: _port(name, given.get(name) or str(default)) for name, default in _DEFAULT_PORTS.items()}
    _refuse_shared_ports(ports)
    url = given.get("REDIS_URL", "")
    return Settings(
        run=run,
        config=(ROOT / (given.get("CONFIG") or "config.yaml")).absolute(),
        ports=ports,
        redis_url=(url if "://" in url else f"redis://{url}") if url else None,
        redis_password=given.get("REDIS_PASSWORD", ""),
        admin_token=given.get("ADMIN_TOKEN", ""),
        runtime=given.get("RUNTIME") or None,
        drain_timeout_s=float(recorded(run).get("DRAIN_TIMEOUT_S", _DRAIN_TIMEOUT_S)),
    )


def recorded(run: Path) -> dict[str, str]:
    try:
        found = json.loads((run / "state.json").read_text())
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in found.items()}


def record(settings: Settings, **more: str) -> None:
    """Record what was started, for later commands. The file is private: it holds the password and the token."""
    kept = {name: str(port) for name, port in settings.ports.items()}
    kept |= {"REDIS_URL": settings.redis_url or "", "REDIS_PASSWORD": settings.redis_password}
    kept |= {"ADMIN_TOKEN": settings.admin_token}
    kept |= {"CONFIG": str(settings.config), "DRAIN_TIMEOUT_S": str(settings.drain_timeout_s), **more}
    descriptor = os.open(settings.state_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(kept, file, indent=2)


def forget(settings: Settings) -> None:
    settings.state_path.unlink(missing_ok=True)


def _port(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise Trouble(f"{name}={text}: expected a port, a number from 1 to 65535")
    return int(text)


def _refuse_shared_ports(ports: Mapping[str, int]) -> None:
    by_port: dict[int, list[str]] = {}
    for name, port in ports.items():
        by_port.setdefault(port, []).append(name)
    for port, names in by_port.items():
        if len(names) > 1:
            raise Trouble(f"port {port} is given twice: {' and '.join(names)}", "choose another port for one of them")
