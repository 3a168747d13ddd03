"""A flood of identities, each used once: its cost for sidecar and store, and what remains afterwards."""

import asyncio
import time
from collections import Counter

from tests.chaos.lab import application
from tests.chaos.storms import Outcome
from tests.recorder import eventually
from tests.servers import StoreServer
from tests.sidecar import Sidecar, configuration


def policy(name: str, limit: str, idle_ttl: str) -> dict[str, object]:
    return {
        "name": name,
        "match": {"path": [f"/{name}/**"]},
        "key": "header:X-User-ID",
        "limit": limit,
        "burst": 1,
        "idle_ttl": idle_ttl,
    }


# A bucket of either policy is full again, and expires, 61 s after its one token was taken.
POLICIES = [policy("lasting", "1/minute", "60s"), policy("fleeting", "1/s", "1s")]
CONNECTIONS = 16
# Requests in flight on one connection.
PIPELINED = 32
# After so many, the deny cache is full and other caches have reached their size.
WARM = 70_000
# The most that a further flood may add to the sidecar's memory.
MOST_GROWTH_BYTES = 32 * 1024 * 1024
# As docs/operations.md says, and half as much again for the tables of keys, which are doubled as they fill.
MOST_BUCKET_BYTES = 290


async def flooded(users: int = 10_000_000, most_s: float = 3600.0) -> Outcome:
    """So many new identities, or as many as come within `most_s`: what they cost each of the two, and for how long."""
    store = StoreServer()
    try:
        with application("forgetful") as app_port:
            upstream = f"http://127.0.0.1:{app_port}"
            config = configuration(store.url, upstream, policies=POLICIES, log={"requests": "none"})
            with Sidecar(config) as sidecar:
                return await _judged(sidecar, store, users, most_s)
    finally:
        store.stop()


async def _judged(sidecar: Sidecar, store: StoreServer, users: int, most_s: float) -> Outcome:
    empty = _used_bytes(store)
    statuses = await _send(sidecar.port, "lasting", range(WARM))
    before, begun_s = sidecar.rss_bytes(), time.monotonic()
    sent = WARM
    while sent < WARM + users and time.monotonic() < begun_s + most_s:
        portion = range(sent, min(sent + 50_000, WARM + users))
        statuses += await _send(sidecar.port, "lasting", portion)
        sent = portion.stop
    took_s = time.monotonic() - begun_s
    grown_bytes = sidecar.peak_rss_bytes() - before
    alive = int(store.client.info("keyspace")["db0"]["keys"])
    bucket_bytes = (_used_bytes(store) - empty) / alive
    faults = [] if set(statuses) == {200} else [f"answers {dict(statuses)}"]
    if grown_bytes > MOST_GROWTH_BYTES:
        faults.append(f"the sidecar grew by {grown_bytes / 2**20:.1f} MiB")
    if bucket_bytes > MOST_BUCKET_BYTES:
        faults.append(f"{bucket_bytes:.0f} bytes a bucket")
    await _send(sidecar.port, "fleeting", range(2_000))
    # The store's own expiry cycle removes them, since no request reads them again.
    await asyncio.to_thread(eventually, lambda: not any(store.client.scan_iter("*:fleeting:*", 10_000)), "they expire")
    return (
        (
            f"{sent} identities, {(sent - WARM) / max(took_s, 0.001):.0f}/s: the sidecar at {before / 2**20:.0f} MiB after"
            f" {WARM}, {grown_bytes / 2**20:+.1f} MiB since; the store has {alive} buckets of {bucket_bytes:.0f} bytes"
        ),
        faults,
    )


def _used_bytes(store: StoreServer) -> int:
    return int(store.client.info("memory")["used_memory"])


async def _send(port: int, path: str, users: range) -> Counter[int]:
    """One request for each user; returns the answers' statuses."""
    found: Counter[int] = Counter()
    shares = [users[number::CONNECTIONS] for number in range(CONNECTIONS)]
    await asyncio.gather(*(_send_on_one(port, path, share, found) for share in shares))
    return found


async def _send_on_one(port: int, path: str, users: range, found: Counter[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for begin in range(0, len(users), PIPELINED):
            portion = users[begin : begin + PIPELINED]
            # 32 characters, as an identity may have.
            lines = [f"GET /{path}/x HTTP/1.1\r\nHost: app.test\r\nX-User-ID: {user:032x}\r\n\r\n" for user in portion]
            writer.write("".join(lines).encode())
            for _ in portion:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
                found[int(head[9:12])] += 1
    finally:
        writer.close()
