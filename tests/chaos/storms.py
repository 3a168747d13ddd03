"""Scenarios with their own traffic: a late store, eviction, clients that disconnect, one contested key."""

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter
from functools import partial

from tests.chaos.lab import QUOTAS, Lab, lab
from tests.chaos.traffic import Traffic, Wanted
from tests.raw_client import get
from tests.recorder import Recorder
from tests.servers import StoreServer, free_port
from tests.sidecar import Sidecar, configuration

Outcome = tuple[str, list[str]]

# listen.drain_timeout, as it is by default.
DRAIN_S = 20.0

BURST = {"name": "burst", "match": {"path": ["/burst/**"]}, "key": "header:X-User-ID", "limit": "1/day", "burst": 100}


async def started_without(down_s: float = 10.0) -> Outcome:
    """A sidecar without a running store serves by its failure modes, and enforces limits once the store answers."""
    recorder, port, faults = Recorder(), free_port(), []
    config = configuration(f"redis://127.0.0.1:{port}", recorder.url, policies=[BURST], store={"timeout": "50ms"})
    with Sidecar(config) as sidecar:
        if (status := get(sidecar.port, "/burst/1", "X-User-ID: a").status) != 503:
            faults.append(f"answers {status} without a store")
        await asyncio.sleep(down_s)
        server = StoreServer("--port", str(port))
        loop = asyncio.get_running_loop()
        up_s = loop.time()
        try:
            while get(sidecar.port, "/burst/1", "X-User-ID: a").status != 200:
                await asyncio.sleep(0.01)
            took_s = loop.time() - up_s
        finally:
            server.stop()
    recorder.stop()
    if took_s > 2:
        faults.append(f"enforcing {took_s:.2f} s after the store answers")
    return f"started {down_s:g} s before the store: 503, enforcing {took_s:.2f} s after it answers", faults


async def shown_evicting() -> Outcome:
    """A store with eviction causes a warning."""
    recorder, server = Recorder(), StoreServer("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    try:
        with Sidecar(configuration(server.url, recorder.url, policies=[BURST])) as sidecar:
            (line,) = sidecar.wait_for_event("store_evicts")
    finally:
        server.stop()
        recorder.stop()
    faults = [] if line["maxmemory_policy"] == "allkeys-lru" else [f"warned of {line}"]
    return "a store with maxmemory-policy allkeys-lru: warned of at start", faults


async def abandoned(made: Lab, clients: int = 10_000) -> Outcome:
    """Clients that send and reset after 1 to 20 ms open no connections to the store and do not affect others."""
    await made.settled()
    made.round += 1
    before = made.proxy.accepted
    traffic = Traffic([each.port for each in made.sidecars], 50, made.wanted)
    steady = asyncio.get_running_loop().create_task(traffic.run())
    for _ in range(clients // 50):
        await asyncio.gather(*(vanish(random.choice(made.sidecars).port) for _ in range(50)))
    traffic.stop()
    await steady
    connections = made.proxy.accepted - before
    faults = [f"{connections} connections to the store"] if connections > 3 else []
    if wrong := [
        each for each in traffic.answers if each.status not in (200, 429) or (each.status == 200) != each.echoed
    ]:
        faults.append(f"{len(wrong)} wrong answers beside them")
    return f"{clients} clients that send and reset: {connections} new connections to the store", faults


async def exactly_the_burst(made: Lab, rounds: int = 20, requests: int = 1500) -> Outcome:
    """Many requests at once for one key over three sidecars: exactly its burst passes, in every round."""
    await made.settled()
    ports = [each.port for each in made.sidecars]
    counts = set()
    for number in range(rounds):
        wanted = Wanted("exact", f"one-{number}", f"/exact/{number}")
        counts.add(await Traffic(ports, 0, partial(_always, wanted)).volley(requests))
    faults = [] if counts == {100} else [f"admitted {sorted(counts)}"]
    return f"{requests} requests at once for one key, {rounds} times: {sorted(counts)} admitted of 100", faults


async def departed(rate_per_s: float = 300.0, calm_s: float = 2.0) -> Outcome:
    """One of three sidecars receives SIGTERM under load: it drains, and the others go on."""
    with lab("1s") as made:
        await made.settled()
        made.round += 1
        loop = asyncio.get_running_loop()
        leaving, port = made.sidecars[0], made.sidecars[0].port
        traffic = Traffic([each.port for each in made.sidecars], rate_per_s, made.wanted)
        steady = loop.create_task(traffic.run())
        await asyncio.sleep(calm_s)
        slow = Traffic([port], 0, lambda number: Wanted("calm", f"slow-{number}", f"/calm/slow/{number}"))
        waiting = loop.create_task(slow.volley(20))
        while sum(target.startswith("/calm/slow/") for target in made.seen_by_the_app()) < 20:
            await asyncio.sleep(0.01)
        asked_s = loop.time()
        leaving.ask_to_stop()
        await asyncio.to_thread(leaving.wait_for_event, "draining")
        ready = get(leaving.admin_port, "/readyz", "Connection: close").status
        finished = await waiting
        status = await asyncio.to_thread(leaving.wait)
        took_s = loop.time() - asked_s
        await asyncio.sleep(calm_s)
        traffic.stop()
        await steady
        seen = made.seen_by_the_app()
    faults = (
        [] if (ready, status, finished) == (503, 0, 20) else [f"readiness {ready}, status {status}, {finished} of 20"]
    )
    if took_s > DRAIN_S:
        faults.append(f"took {took_s:.1f} s")
    unanswered = [each for each in traffic.answers if each.status == 0]
    if dropped := sum(seen[each.wanted.target] for each in unanswered):
        faults.append(f"{dropped} accepted requests without an answer")
    if others := {each.status for each in traffic.answers if each.sidecar} - {200, 429}:
        faults.append(f"answers {sorted(others)} of the others")
    quota = QUOTAS["tight"]
    seconds = max(each.sent_s + each.took_s for each in traffic.answers) - min(each.sent_s for each in traffic.answers)
    passed = Counter(each.wanted.user for each in traffic.answers if each.status == 200 and each.wanted.kind == "tight")
    if (most := max(passed.values())) > (bound := quota.bound(seconds, 0, None)):
        faults.append(f"{most} of {bound} admitted")
    return (
        (
            f"SIGTERM for one of three: readiness {ready}, {finished} of 20 in flight answered, gone after {took_s:.2f} s;"
            f" {len(unanswered)} found it gone, of the key nearest its bound {most}/{bound} admitted"
        ),
        faults,
    )


def _always(wanted: Wanted, _: int) -> Wanted:
    return wanted


async def vanish(port: int) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError), socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, b"GET /calm/0/0 HTTP/1.1\r\nHost: app.test\r\nX-User-ID: storm\r\n\r\n")
        await asyncio.sleep(random.uniform(0.001, 0.02))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
