"""Inspects the store: lists keys, runs one command, opens a prompt, prints the stream of commands. Read-only."""

import os
import shlex
import shutil
import subprocess
import urllib.parse

import redis

from deploy.install import redis_prompt
from deploy.settings import Settings
from deploy.terminal import Trouble, foreground, say

_LIMIT_S = 2.0
_CHECKED_SCHEMES = {"redis", "rediss", "unix"}  # the sidecars themselves discover Sentinel and Cluster


def ping(settings: Settings) -> None:
    """Raise Trouble if the store of REDIS_URL does not answer."""
    if settings.store_url.partition("://")[0] not in _CHECKED_SCHEMES:
        return
    try:
        with _client(settings) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as fault:
        if isinstance(fault, redis.AuthenticationError) or "AUTH" in str(fault):
            raise Trouble(
                f"{_shown(settings)} requires a password, or another one", "REDIS_PASSWORD=… make start"
            ) from fault
        raise Trouble(
            f"the Redis of REDIS_URL does not answer: {_shown(settings)}: {fault}",
            "start it, or leave REDIS_URL out: make start then starts its own store",
        ) from fault


def keys(settings: Settings, pattern: str) -> None:
    """Print name, type and time to live of each key. Uses SCAN, which does not block the store as KEYS does."""
    count = 0
    try:
        with _client(settings) as client:
            for name in client.scan_iter(match=pattern, count=200):
                count += 1
                ttl_ms = client.pttl(name)
                ttl = "never expires" if ttl_ms == -1 else f"expires in {ttl_ms / 1000:.0f} s"
                say(f"{name}  {client.type(name)}  {ttl}")
    except BrokenPipeError:
        raise  # from standard output, such as `| head`: not an error of the store
    except (redis.RedisError, OSError) as fault:
        raise Trouble(f"{_shown(settings)}: {fault}", "check that it is running: make status") from fault
    say(f"{count} {'key matches' if count == 1 else 'keys match'} {pattern}")


def prompt(settings: Settings, arguments: list[str]) -> int:
    """Run one command, or open a prompt if none is given. Returns the exit status of the tool."""
    with foreground():
        for name in ("redis-cli", "valkey-cli"):
            if tool := shutil.which(name):
                return _run([tool, *_place(settings), *arguments], {"REDISCLI_AUTH": settings.redis_password})
        environment = {"IREDIS_URL": _url_with_password(settings)}
        command = [str(redis_prompt()), "--no-greetings"]
        # Without a terminal, iredis reads commands from standard input and prints plain replies.
        return _run(command, environment, shlex.join(arguments) if arguments else None)


def _run(command: list[str], environment: dict[str, str], text: str | None = None) -> int:
    more = {name: value for name, value in environment.items() if value}
    try:
        return subprocess.run(command, env={**os.environ, **more}, input=text, text=True, check=False).returncode
    except KeyboardInterrupt:
        return 0


def _client(settings: Settings) -> "redis.Redis":
    return redis.Redis.from_url(
        settings.store_url,
        password=settings.redis_password or None,
        socket_timeout=_LIMIT_S,
        socket_connect_timeout=_LIMIT_S,
        decode_responses=True,
    )


def _place(settings: Settings) -> list[str]:
    parts = urllib.parse.urlsplit(settings.store_url)
    return ["-s", parts.path] if parts.scheme == "unix" else ["-u", settings.store_url]


def _url_with_password(settings: Settings) -> str:
    parts = urllib.parse.urlsplit(settings.store_url)
    if not settings.redis_password or "@" in parts.netloc:
        return settings.store_url
    return parts._replace(netloc=f":{urllib.parse.quote(settings.redis_password, safe='')}@{parts.netloc}").geturl()


def _shown(settings: Settings) -> str:
    scheme, _, rest = settings.store_url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
