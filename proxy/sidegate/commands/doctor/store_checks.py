"""Checks of the store: connection, version, role, rights, eviction, clock, round trip.

Connects as a sidecar does. Two keys are written: the bucket of a probe, which expires after a minute, and an expired
entry in the list of proxies, which is removed again. In a Cluster, all masters are checked, with a probe
for each.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import partial
from secrets import token_hex
from statistics import median

from sidegate.commands.doctor.diagnosis import Diagnosis, failure, ok, warning
from sidegate.config import StoreSettings
from sidegate.store.awaiting import answer_of
from sidegate.store.cluster.cluster_node import OF_THE_SLOT
from sidegate.store.factory import open_store
from sidegate.store.failure_advice import failure_advice
from sidegate.store.housekeeping import EVICTION_ADVICE, KEPT_POLICIES, facts_of
from sidegate.store.probe import probe_charge
from sidegate.store.protocol import Command, Levels, Store, StoreUnavailable

# A command at a terminal may wait longer than `store.timeout`, which is for requests.
TIMEOUT_S = 2.0
PINGS = 20
# Keys that are tried to find one for each master of a Cluster: with 32, one of three has none in 1 of 10^17 cases.
KEYS_TRIED_PER_MASTER = 32
# Below this, times of log lines of store and sidecar can be compared.
CLOCK_S = 1.0

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
            yield failure("store", f"{settings.url}: {lost} ({lost.reason})", failure_advice(lost.reason))
            return
        async for finding in _checks(store, settings):
            yield finding
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def _checks(store: Store, settings: StoreSettings) -> AsyncIterator[Diagnosis]:
    replies = await _each(store, "INFO")
    lost = {node: reply for node, reply in replies.items() if isinstance(reply, StoreUnavailable)}
    for node, reply in lost.items():
        yield failure("store", f"{_at(node)}{reply} ({reply.reason})", failure_advice(reply.reason))
    masters = {node: facts_of(reply) for node, reply in replies.items() if node not in lost}
    if not masters:
        return
    yield _servers(settings, masters)
    for finding in await _decisions(store, masters):
        yield finding
    for finding in await _rights(store, settings.key_prefix):
        yield finding
    yield _proxies(
        await _command(store, f"{settings.key_prefix}probe", "ZCARD", f"{settings.key_prefix}proxies"), settings
    )
    for finding in _alike({node: _eviction(facts) for node, facts in masters.items()}):
        yield finding
    yield await _round_trip(store, settings)
    for finding in await _clock(store):
        yield finding


def _at(node: str) -> str:
    """The beginning of a finding about one node; empty for a store of one server."""
    return f"{node}: " if node else ""


def _alike(findings: Mapping[str, Diagnosis]) -> list[Diagnosis]:
    """One finding if all nodes have the same, else one for each node."""
    if len(set(findings.values())) == 1:
        return [next(iter(findings.values()))]
    return [replace(finding, text=f"{_at(node)}{finding.text}") for node, finding in findings.items()]


def _servers(settings: StoreSettings, masters: Mapping[str, Mapping[str, str]]) -> Diagnosis:
    versions = ", ".join(sorted({_version(facts) for facts in masters.values()}))
    if "" in masters:
        return ok("store", f"{settings.url}: {versions}, {masters[''].get('role', 'role unknown')}")
    return ok("store", f"{settings.url}: {versions}, {len(masters)} masters: {', '.join(sorted(masters))}")


def _version(info: Mapping[str, str]) -> str:
    for name in ("valkey", "redis"):
        if version := info.get(f"{name}_version"):
            return f"{name} {version}"
    return "unknown version (no right to INFO)"


async def _decisions(store: Store, masters: Mapping[str, Mapping[str, str]]) -> list[Diagnosis]:
    """Run the deciding script on each master."""
    failures = []
    for node, key in (await _keys_of(store, masters)).items():
        charged = await answer_of(partial(_charge, store, key))
        if isinstance(charged, StoreUnavailable):
            advice = failure_advice(charged.reason)
            failures.append(failure("decisions", f"{_at(node)}{charged} ({charged.reason})", advice))
    return failures or [ok("decisions", "the deciding script runs")]


async def _keys_of(store: Store, masters: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """A key for each master. INFO shows where a key is; without the right to it, one key is tried."""
    # New names: the bucket of a probe less than a second ago is empty, so that a charge would write nothing.
    probe = f"{store.key_prefix}probe-{token_hex(4)}"
    nodes = {run_id: node for node, facts in masters.items() if (run_id := facts.get("run_id"))}
    if len(nodes) < 2:
        return {next(iter(masters), ""): probe}
    keys: dict[str, str] = {}
    for number in range(KEYS_TRIED_PER_MASTER * len(nodes)):
        key = f"{probe}-{number}"
        facts = facts_of(await _command(store, key, "INFO", "server"))
        if node := nodes.get(facts.get("run_id", "")):
            keys.setdefault(node, key)
        if len(keys) == len(nodes):
            break
    return keys


def _charge(store: Store, key: str, then: Callable[[Levels | StoreUnavailable], None]) -> None:
    def answered(levels: Levels | StoreUnavailable, _: float) -> None:
        then(levels)

    store.ask((probe_charge(key),), answered)


async def _command(store: Store, key: str, *command: str | int) -> object:
    words: Command = command
    return await answer_of(partial(store.command, key, words))


async def _each(store: Store, *command: str | int) -> Mapping[str, object]:
    words: Command = command
    return await answer_of(partial(store.command_each, words))


async def _rights(store: Store, prefix: str) -> list[Diagnosis]:
    """Try each command on each master. One that does not have the key refuses what is forbidden all the same."""
    missing = []
    for command, purpose in _RIGHTS:
        words = [word.format(prefix=prefix) if isinstance(word, str) else word for word in command]
        for node, reply in (await _each(store, *words)).items():
            if isinstance(reply, Exception) and not str(reply).startswith(OF_THE_SLOT):
                text = f"{_at(node)}{words[0]}: {reply}"
                missing.append(warning("rights", text, f"allow it; without it: no {purpose}"))
    return missing or [ok("rights", "all commands are allowed")]


def _proxies(reply: object, settings: StoreSettings) -> Diagnosis:
    if settings.replicas is not None:
        return ok("proxies", f"store.replicas: {settings.replicas} sidecars divide each limit during an outage")
    count = reply if type(reply) is int else 0
    return ok("proxies", f"{count} announce themselves; they divide each limit under `local` during an outage")


def _eviction(info: Mapping[str, str]) -> Diagnosis:
    policy, bound = info.get("maxmemory_policy", ""), info.get("maxmemory", "")
    if not policy:
        return warning("eviction", "unknown: no right to INFO", EVICTION_ADVICE)
    if bound == "0":
        return ok("eviction", f"no maxmemory ({policy}); bound it in production: {EVICTION_ADVICE}")
    if policy in KEPT_POLICIES:
        return ok("eviction", f"maxmemory {bound} bytes, {policy}")
    return warning("eviction", f"maxmemory {bound} bytes, {policy}: buckets in use may be evicted", EVICTION_ADVICE)


async def _round_trip(store: Store, settings: StoreSettings) -> Diagnosis:
    """The time until all masters have answered."""
    took_s = []
    for _ in range(PINGS):
        began_s = time.perf_counter()
        replies = await _each(store, "PING")
        took_s.append(time.perf_counter() - began_s)
        for node, reply in replies.items():
            if isinstance(reply, Exception):
                return failure("round trip", f"{_at(node)}PING: {reply}", "check the network")
    middle, longest, bound = median(took_s), max(took_s), settings.timeout_s
    text = (
        f"{middle * 1000:.1f} ms, the longest of {PINGS} {longest * 1000:.1f} ms; store.timeout is {bound * 1000:g} ms"
    )
    advice = "move the store closer, or raise store.timeout: requests beyond it take on_failure"
    return warning("round trip", text, advice) if longest > bound / 2 else ok("round trip", text)


async def _clock(store: Store) -> list[Diagnosis]:
    """Compare the clocks of all masters with this machine's; nothing without the right to TIME."""
    before_s = time.time()  # noqa: TID251  (compared with the store's clock)
    replies = await _each(store, "TIME")
    between_s = (before_s + time.time()) / 2  # noqa: TID251
    ahead_s = {
        node: abs(int(reply[0]) + int(reply[1]) / 1e6 - between_s)
        for node, reply in replies.items()
        if isinstance(reply, list)
    }
    if not ahead_s:
        return []
    node = max(ahead_s, key=ahead_s.__getitem__)
    text = f"{_at(node)}the store's clock differs by {ahead_s[node]:.1f} s"
    advice = "synchronise both clocks; limits follow the store's clock alone and are right"
    return [ok("clock", text) if ahead_s[node] <= CLOCK_S else warning("clock", text, advice)]
