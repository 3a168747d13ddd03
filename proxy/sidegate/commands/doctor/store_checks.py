"""Checks of the store: connection, version, role, rights, eviction, clock, round trip.

Connects as a sidecar does. Two keys are written: the bucket of a probe, which expires after a minute, and an expired
entry in the list of proxies, which is removed again. In a Cluster, facts about a server are
those of the node that has `<key_prefix>probe`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from statistics import median

from sidegate.commands.doctor.diagnosis import Diagnosis, failure, ok, warning
from sidegate.config import StoreSettings
from sidegate.store.awaiting import answer_of
from sidegate.store.factory import open_store
from sidegate.store.housekeeping import EVICTION_ADVICE, KEPT_POLICIES, facts_of
from sidegate.store.probe import probe_charge
from sidegate.store.protocol import Command, Levels, Store, StoreUnavailable

# A command at a terminal may wait longer than `store.timeout`, which is for requests.
TIMEOUT_S = 2.0
PINGS = 20
# Below this, times of log lines of store and sidecar can be compared.
CLOCK_S = 1.0

_ADVICE = {
    "connect": "start it, or correct store.url",
    "timeout": "check the network, and what else uses the server: SLOWLOG GET",
    "noauth": "set store.password (REDIS_PASSWORD)",
    "wrongpass": "correct store.username and store.password (REDIS_PASSWORD)",
    "wrong_role": "for a Sentinel write redis+sentinel://HOST:PORT/SERVICE",
    "readonly": "name the master, or use redis+sentinel://",
    "protocol": "correct store.url: another program answers there; TLS needs rediss://",
    "no_master": "correct the service at the end of store.url, or the Sentinels' credentials",
    "oom": "raise maxmemory, or set maxmemory-policy volatile-ttl",
}
# Commands beyond those of decisions, with what is missing without them.
_RIGHTS = (
    (("ZADD", "{prefix}proxies", 0, "doctor"), "the count of proxies, by which `local` divides each limit"),
    (("ZREMRANGEBYSCORE", "{prefix}proxies", 0, 0), "the count of proxies, by which `local` divides each limit"),
    (("HDEL", "{prefix}probe", "held"), "policies with settle"),
    (("ZREM", "{prefix}proxies", "doctor"), "policies with in_flight"),
    (("ZCOUNT", "{prefix}proxies", 0, 0), "policies with in_flight"),
    (("ZRANGEBYSCORE", "{prefix}proxies", 0, 0), "policies with in_flight"),
    (("DBSIZE",), "the warning about many keys"),
    (("SCAN", 0, "COUNT", 1), "sidegate buckets list"),
    (("HGET", "{prefix}probe", "tokens"), "sidegate buckets show"),
    (("DEL", "{prefix}doctor"), "sidegate buckets reset"),
)


async def check_store(settings: StoreSettings) -> AsyncIterator[Diagnosis]:
    """Connect and check. Ends after the first failure that makes the rest pointless."""
    store = open_store(settings, lambda _: None, TIMEOUT_S)
    keeping = asyncio.get_running_loop().create_task(store.keep_connected())
    try:
        async with asyncio.timeout(2 * TIMEOUT_S):
            await store.tried.wait()
    except TimeoutError:
        pass
    try:
        if (lost := store.failure) is not None:
            yield failure("store", f"{settings.url}: {lost} ({lost.reason})", _ADVICE.get(lost.reason, "see its log"))
            return
        async for finding in _checks(store, settings):
            yield finding
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def _checks(store: Store, settings: StoreSettings) -> AsyncIterator[Diagnosis]:
    ask = partial(_command, store, f"{settings.key_prefix}probe")
    info = facts_of(await ask("INFO"))
    yield ok("store", f"{settings.url}: {_version(info)}, {info.get('role', 'role unknown')}")
    charged = await answer_of(partial(_charge, store, settings.key_prefix))
    if isinstance(charged, StoreUnavailable):
        yield failure(
            "decisions",
            f"{charged} ({charged.reason})",
            _ADVICE.get(charged.reason, "see Rights of a store user in docs/operations.md"),
        )
    else:
        yield ok("decisions", "the deciding script runs")
    for finding in await _rights(store, settings.key_prefix):
        yield finding
    yield _proxies(await ask("ZCARD", f"{settings.key_prefix}proxies"), settings)
    yield _eviction(info)
    for finding in await _times(store, settings):
        yield finding


def _version(info: Mapping[str, str]) -> str:
    for name in ("valkey", "redis"):
        if version := info.get(f"{name}_version"):
            return f"{name} {version}"
    return "unknown version (no right to INFO)"


def _charge(store: Store, prefix: str, then: Callable[[Levels | StoreUnavailable], None]) -> None:
    def answered(levels: Levels | StoreUnavailable, _: float) -> None:
        then(levels)

    store.ask((probe_charge(f"{prefix}probe"),), answered)


async def _command(store: Store, key: str, *command: str | int) -> object:
    words: Command = command
    return await answer_of(partial(store.command, key, words))


async def _rights(store: Store, prefix: str) -> list[Diagnosis]:
    missing = []
    for command, purpose in _RIGHTS:
        words = [word.format(prefix=prefix) if isinstance(word, str) else word for word in command]
        key = next((str(word) for word in words[1:] if str(word).startswith(prefix)), f"{prefix}probe")
        reply = await _command(store, key, *words)
        if isinstance(reply, Exception):
            missing.append(warning("rights", f"{words[0]}: {reply}", f"allow it; without it: no {purpose}"))
    return missing or [ok("rights", "all commands are allowed")]


def _proxies(reply: object, settings: StoreSettings) -> Diagnosis:
    if settings.replicas is not None:
        return ok("proxies", f"store.replicas: {settings.replicas} sidecars divide each limit during an outage")
    count = reply if type(reply) is int else 0
    return ok("proxies", f"{count} announce themselves; they divide each limit under `local` during an outage")


def _eviction(info: dict[str, str]) -> Diagnosis:
    policy, bound = info.get("maxmemory_policy", ""), info.get("maxmemory", "")
    if not policy:
        return warning("eviction", "unknown: no right to INFO", EVICTION_ADVICE)
    if bound == "0":
        return ok("eviction", f"no maxmemory ({policy}); bound it in production: {EVICTION_ADVICE}")
    if policy in KEPT_POLICIES:
        return ok("eviction", f"maxmemory {bound} bytes, {policy}")
    return warning("eviction", f"maxmemory {bound} bytes, {policy}: buckets in use may be evicted", EVICTION_ADVICE)


async def _times(store: Store, settings: StoreSettings) -> list[Diagnosis]:
    took_s = []
    for _ in range(PINGS):
        began_s = time.perf_counter()
        reply = await answer_of(store.ping)
        took_s.append(time.perf_counter() - began_s)
        if isinstance(reply, Exception):
            return [failure("round trip", f"PING: {reply}", "check the network")]
    middle, longest, bound = median(took_s), max(took_s), settings.timeout_s
    text = (
        f"{middle * 1000:.1f} ms, the longest of {PINGS} {longest * 1000:.1f} ms; store.timeout is {bound * 1000:g} ms"
    )
    advice = "move the store closer, or raise store.timeout: requests beyond it take on_failure"
    found = [warning("round trip", text, advice) if longest > bound / 2 else ok("round trip", text)]
    before_s = time.time()  # noqa: TID251  (compared with the store's clock)
    reply = await _command(store, f"{settings.key_prefix}probe", "TIME")
    if isinstance(reply, list):
        between_s = (before_s + time.time()) / 2  # noqa: TID251
        ahead_s = int(reply[0]) + int(reply[1]) / 1e6 - between_s
        text = f"the store's clock differs by {abs(ahead_s):.1f} s"
        advice = "synchronise both clocks; limits follow the store's clock alone and are right"
        found.append(ok("clock", text) if abs(ahead_s) <= CLOCK_S else warning("clock", text, advice))
    return found
