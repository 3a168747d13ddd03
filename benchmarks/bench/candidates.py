"""The proxies to compare: configuration, start command, and the command that installs a missing one.

All of them limit by X-User-ID: 1,000,000/s on /wide, 1/s on /tight. All but Envoy, whose local limiter keeps its
buckets in its own memory, use the same store for every request that they cannot decide themselves.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from benchmarks.bench.laboratory import ROOT, Laboratory, free_port, python

_FILES = Path(__file__).parent / "peers"
_TOOLS = ROOT / ".venv-bench" / "bin"
_NGINX_MODULES = Path("/usr/lib/nginx/modules")
_NGINX_REDIS = Path("/usr/share/lua/5.1/nginx/redis.lua")

# What `make compiled` unpacks.
_COMPILED = ROOT / "build" / "compiled"

SIDEGATE, COMPILED = "sidegate", "sidegate compiled"
NGINX, TRAEFIK, ENVOY, PLAIN = "nginx+lua", "traefik", "envoy local", "plain aiohttp"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A running proxy."""

    name: str
    pid: int
    port: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How to start a proxy. `missing` is the command that installs it, or None if it is installed."""

    name: str
    command: Callable[[Laboratory, Mapping[str, str]], Sequence[str]]
    missing: str | None = None


def plans() -> list[Plan]:
    """All proxies that can be compared, in the order of the tables."""
    nginx = shutil.which("nginx") and (_NGINX_MODULES / "ngx_http_lua_module.so").exists() and _NGINX_REDIS.exists()
    tools = "make bench-tools"
    return [
        Plan(SIDEGATE, _sidegate),
        Plan(COMPILED, _compiled, None if (_COMPILED / "sidegate").exists() else "make compiled"),
        Plan(NGINX, _nginx, None if nginx else "apt-get install nginx libnginx-mod-http-lua lua-nginx-redis"),
        Plan(TRAEFIK, _traefik, None if (_TOOLS / "traefik").exists() else tools),
        Plan(ENVOY, _envoy, None if (_TOOLS / "envoy").exists() else tools),
        Plan(PLAIN, _plain),
    ]


def start(laboratory: Laboratory, plan: Plan, upstream: int, store: int) -> Candidate:
    """Start one of them on the core for proxies."""
    port = free_port()
    values = {"port": port, "admin": free_port(), "upstream": upstream, "store": store, "folder": laboratory.folder}
    command = plan.command(laboratory, {name: str(value) for name, value in values.items()})
    return Candidate(plan.name, laboratory.start(plan.name.replace(" ", "-"), laboratory.proxies, command, port), port)


def configured(laboratory: Laboratory, name: str, values: Mapping[str, str]) -> str:
    """Fill in one of the files in `peers/`; returns the path of the copy."""
    return str(laboratory.write(name, Template((_FILES / name).read_text()).substitute(values)))


def _sidegate(laboratory: Laboratory, values: Mapping[str, str]) -> Sequence[str]:
    return python("sidegate", "run", "--config", configured(laboratory, "sidegate.yaml", values))


def _compiled(laboratory: Laboratory, values: Mapping[str, str]) -> Sequence[str]:
    return ("env", f"PYTHONPATH={_COMPILED}", *_sidegate(laboratory, values))


def _nginx(laboratory: Laboratory, values: Mapping[str, str]) -> Sequence[str]:
    own = {**values, "modules": str(_NGINX_MODULES), "scripts": str(_FILES)}
    return ("nginx", "-p", str(laboratory.folder), "-c", configured(laboratory, "nginx.conf", own))


def _traefik(laboratory: Laboratory, values: Mapping[str, str]) -> Sequence[str]:
    configured(laboratory, "traefik-routes.yaml", values)
    return (str(_TOOLS / "traefik"), f"--configFile={configured(laboratory, 'traefik.yaml', values)}")


def _envoy(laboratory: Laboratory, values: Mapping[str, str]) -> Sequence[str]:
    own = {**values, "wide": _local_limit("wide", 1_000_000_000, 50), "tight": _local_limit("tight", 1, 1000)}
    options = ("--concurrency", "1", "--log-level", "error", "--disable-hot-restart")
    return (str(_TOOLS / "envoy"), "-c", configured(laboratory, "envoy.yaml", own), *options)


def _local_limit(name: str, tokens: int, interval_ms: int) -> str:
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return json.dumps(
        {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": name,
            "token_bucket": {
                "max_tokens": tokens,
                "tokens_per_fill": tokens,
                "fill_interval": f"{interval_ms / 1000:g}s",
            },
            "filter_enabled": always,
            "filter_enforced": always,
            "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        }
    )


def _plain(_: Laboratory, values: Mapping[str, str]) -> Sequence[str]:
    upstream, store = f"http://127.0.0.1:{values['upstream']}", f"redis://127.0.0.1:{values['store']}"
    return python("benchmarks.baseline_proxy", values["port"], upstream, store)
