"""`python -m tests.chaos.in_flight`: random starts, ends, aborts and kill -9 under `in_flight`, over three sidecars.

The application counts what it works on. Shown in the end: the most at once by limit; the time until every place was
free; and the under-use: requests refused though fewer than the key's limit were under way all the time from 100 ms
before the request to the refusal. What is under way is counted twice: from the client's sending of a request that passed
to its answer (or to the end of its work, where the client left), and at the application alone. The second one takes the
way between them, on which a place is taken too, for under-use; the first one is judged. Refusals within LEASE_S of a
kill are not: the killed sidecar's places are not free yet.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import socket
import struct
import sys
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import uvloop

from tests.chaos.counting_app import LIMITS
from tests.chaos.lab import application
from tests.raw_client import get
from tests.servers import StoreServer
from tests.sidecar import PREFIX, Sidecar, configuration

KEYS = [f"{name}-{number}" for name in LIMITS for number in range(15)]
LEASE_S = 10.0
MOST_UNDER_USE = 0.01
# A sidecar may remember a refusal for so long after another one has freed a place.
REMEMBERED_S = 0.1
# A request without an answer by then counts as hung.
HUNG_AFTER_S = 20.0
_RESET = struct.pack("ii", 1, 0)


def policy() -> dict[str, object]:
    """One policy, with its keys' limits as overrides."""
    overrides = [
        {"key": [key for key in KEYS if key.startswith(f"{n}-")], "in_flight": most} for n, most in LIMITS.items()
    ]
    return {"name": "busy", "match": {"path": "/api/**"}, "key": "path:2", "in_flight": 1, "overrides": overrides}


@dataclass(slots=True)
class Found:
    """What the clients saw. `refusals`: key, sent, answered. `passed`: number, key, sent, and answered unless left."""

    statuses: Counter[str] = field(default_factory=Counter)
    refusals: list[tuple[str, float, float]] = field(default_factory=list)
    passed: list[tuple[int, str, float, float | None]] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return sum(self.statuses.values())


class ClientLine(asyncio.Protocol):
    """One connection, one request at a time; `answer` is the status, or 0 where it ended without a whole answer."""

    def __init__(self) -> None:
        self.lost = False
        self._unread = b""
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: Any) -> None:  # uvloop's is no subclass of asyncio's
        self.transport = transport

    def ask(self, data: bytes) -> "asyncio.Future[int]":
        self._unread, self._answer = b"", asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, found, body = self._unread.partition(b"\r\n\r\n")
        if not found:
            return
        length = head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
        if len(body) >= int(length) if length else body.endswith(b"0\r\n\r\n"):
            self._end(int(head[9:12]))

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True
        self._end(0)

    def _end(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)


class Storm:
    """`slots` clients that send `requests` requests in all, or as many as they can in `seconds`."""

    def __init__(self, sidecars: list[Sidecar], requests: int, seconds: float, slots: int, seed: int) -> None:
        self.sidecars = sidecars
        self.found = Found()
        self._left = requests
        self._until_s = time.monotonic() + seconds
        self._slots = slots
        self._numbers = count()
        self._random = random.Random(seed)
        self._idle: dict[int, list[ClientLine]] = {}

    async def run(self) -> None:
        """Send them all."""
        await asyncio.gather(*(self._slot() for _ in range(self._slots)))
        for line in (line for lines in self._idle.values() for line in lines):
            line.transport.abort()

    @property
    def over(self) -> bool:
        return self._left <= 0 or time.monotonic() > self._until_s

    async def _slot(self) -> None:
        while not self.over:
            self._left -= 1
            with contextlib.suppress(OSError):  # a sidecar that was killed
                refused = await self._one()
                if refused:
                    await asyncio.sleep(self._random.uniform(0, 0.02))

    async def _one(self) -> bool:
        """One request; returns whether it was refused."""
        chance, port = self._random, self._random.choice(self.sidecars).port
        key, kind = chance.choice(KEYS), chance.choices(("whole", "stream", "close"), (80, 15, 5))[0]
        work_ms = chance.randrange(20, 280)
        leaves_after_s = chance.uniform(0, 0.3) if chance.random() < 0.3 else None
        line = await self._line(port)
        number, sent_s = next(self._numbers), time.monotonic()
        answer = line.ask(f"GET /api/{key}/{kind}/{work_ms}/{number} HTTP/1.1\r\nHost: app.test\r\n\r\n".encode())
        if leaves_after_s is not None:
            await asyncio.wait((answer,), timeout=leaves_after_s)
            if not answer.done():
                self._leave(line)
                self.found.statuses["left"] += 1
                self.found.passed.append((number, key, sent_s, None))
                return False
        try:
            status = await asyncio.wait_for(answer, HUNG_AFTER_S)
        except TimeoutError:
            status = -1
        self.found.statuses[{0: "lost", -1: "hung"}.get(status, str(status))] += 1
        if status == 429:
            self.found.refusals.append((key, sent_s, time.monotonic()))
        else:
            self.found.passed.append((number, key, sent_s, time.monotonic()))
        if not line.lost:
            self._idle.setdefault(port, []).append(line)
        return status == 429

    def _leave(self, line: ClientLine) -> None:
        if self._random.random() < 0.5:
            line.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        line.transport.abort()

    async def _line(self, port: int) -> ClientLine:
        idle = self._idle.setdefault(port, [])
        while idle:
            line = idle.pop()
            if not line.lost:
                return line
        _, line = await asyncio.get_running_loop().create_connection(ClientLine, "127.0.0.1", port)
        return line


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures as text, and what is wrong with them."""

    lines: list[str]
    faults: list[str]


async def storm(
    requests: int,
    seconds: float,
    *,
    slots: int = 300,
    kill_every_s: float = 25.0,
    seed: int = 1,
    most_under_use: float = MOST_UNDER_USE,
) -> Outcome:
    """Run it: `slots` clients; every `kill_every_s` one sidecar is killed, and another one takes its place."""
    store = StoreServer()
    try:
        with application(module="tests.chaos.counting_app") as app_port, contextlib.ExitStack() as stack:
            url = f"http://127.0.0.1:{app_port}"

            def start() -> Sidecar:
                upstream = {"url": url, "connect_timeout": "10s"}  # a busy machine is no fault
                config = configuration(store.url, url, policies=[policy()], log={"requests": "none"}, upstream=upstream)
                return stack.enter_context(Sidecar(config))

            made = Storm([start() for _ in range(3)], requests, seconds, slots, seed)
            begun_s = time.monotonic()
            killing = asyncio.get_running_loop().create_task(_kill(made, start, kill_every_s))
            await made.run()
            took_s = time.monotonic() - begun_s
            killing.cancel()
            await asyncio.gather(killing, return_exceptions=True)
            await _hold_everywhere(made.sidecars[0].port, store)
            kill(made.sidecars[0])
            free_s = await _until_free(store)
            report = get(app_port, "/report").json()
        return judged(made.found, report, took_s, free_s, most_under_use)
    finally:
        store.stop()


async def _kill(made: Storm, start: Callable[[], Sidecar], every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        number = random.randrange(len(made.sidecars))
        kill(made.sidecars[number])
        made.found.kills.append(time.monotonic())
        made.sidecars[number] = await asyncio.to_thread(start)


def kill(sidecar: Sidecar) -> None:
    """End a sidecar by SIGKILL."""
    sidecar.may_complain = True
    os.kill(sidecar.pid, signal.SIGKILL)


async def _hold_everywhere(port: int, store: StoreServer) -> None:
    """Begin a request of each key that lasts longer than the sidecar does, and wait until it has its place."""
    loop = asyncio.get_running_loop()
    while places(store):
        await asyncio.sleep(0.02)
    for key in KEYS:
        _, line = await loop.create_connection(ClientLine, "127.0.0.1", port)
        _ = line.ask(f"GET /api/{key}/whole/1000/{key} HTTP/1.1\r\nHost: app.test\r\n\r\n".encode())
    while places(store) < len(KEYS):
        await asyncio.sleep(0.02)


async def _until_free(store: StoreServer) -> float:
    """The seconds until no place is taken."""
    begun_s = time.monotonic()
    while places(store) and time.monotonic() < begun_s + 2 * LEASE_S:
        await asyncio.sleep(0.02)
    return time.monotonic() - begun_s


def places(store: StoreServer) -> int:
    """Places taken, of all keys."""
    client: Any = store.client
    now_us = store.time_us()
    return sum(client.zcount(f"{PREFIX}busy/in_flight:{key}", now_us + 1, "+inf") for key in KEYS)


def judged(found: Found, report: Any, took_s: float, free_s: float, most_under_use: float) -> Outcome:
    """Compare what the clients and the application saw with what is promised."""
    most = {
        name: max((n for key, n in report["peaks"].items() if key.startswith(f"{name}-")), default=0) for name in LIMITS
    }
    counted = [each for each in found.refusals if not _after_a_kill(each[1], found.kills)]
    wrong, at_the_application = (
        sum(not _was_full(turns.get(key, ()), sent_s - REMEMBERED_S, at_s) for key, sent_s, at_s in counted)
        for turns in (_turns(found, report["ends"]), report["turns"])
    )
    under_use = wrong / found.sent if found.sent else 0.0
    faults = [f"the application saw {most[name]} of {limit}" for name, limit in LIMITS.items() if most[name] > limit]
    if free_s > LEASE_S + 0.1:
        faults.append(f"places were taken {free_s:.1f} s after the kill")
    if under_use > most_under_use:
        faults.append(f"under-use of {under_use:.2%}")
    if found.statuses["hung"]:
        faults.append(f"{found.statuses['hung']} requests without an answer")
    if odd := set(found.statuses) - {"200", "429", "502", "left", "lost", "hung"}:
        faults.append(f"answers {sorted(odd)}")
    return Outcome(
        [
            f"{found.sent} requests in {took_s:.0f} s ({found.sent / took_s:.0f}/s), {len(found.kills) + 1} x kill -9: "
            + ", ".join(f"{count} {name}" for name, count in found.statuses.most_common()),
            f"at the application: {report['done']} worked on; most at once "
            + ", ".join(f"{most[name]} of {limit}" for name, limit in LIMITS.items())
            + f"; above the limit {report['above']} times",
            (
                f"under-use: {wrong} of {len(counted)} refusals judged, {under_use:.3%} of all requests "
                f"(counted at the application alone {at_the_application})"
            ),
            f"the last place was free {free_s:.1f} s after kill -9",
        ],
        faults,
    )


def _turns(found: Found, ends: Mapping[str, float]) -> dict[str, list[float]]:
    """By key, the times at which its limit was reached and left by the requests that passed."""
    steps: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for number, key, sent_s, answered_s in found.passed:
        end_s = ends.get(str(number), sent_s) if answered_s is None else answered_s
        steps[key] += [(sent_s, 1), (max(sent_s, end_s), -1)]
    turns: dict[str, list[float]] = {}
    for key, moments in steps.items():
        running, limit = 0, LIMITS[key.partition("-")[0]]
        turns[key] = []
        for moment_s, step in sorted(moments):
            running += step
            if running == limit - (step < 0):
                turns[key].append(moment_s)
    return turns


def _after_a_kill(moment_s: float, kills: Sequence[float]) -> bool:
    return any(0 <= moment_s - killed_s <= LEASE_S + REMEMBERED_S for killed_s in kills)


def _was_full(turns: Sequence[float], begin_s: float, end_s: float) -> bool:
    """Whether the limit was reached within the interval; `turns`: reached, left, reached, …"""
    before = bisect_right(turns, begin_s)
    return before % 2 == 1 or (before < len(turns) and turns[before] <= end_s)


async def main(options: argparse.Namespace) -> int:
    outcome = await storm(
        options.requests, options.seconds, slots=options.slots, kill_every_s=options.kill_every, seed=options.seed
    )
    print(*outcome.lines, "; ".join(outcome.faults) or "holds", sep="\n", flush=True)
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.in_flight", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=900.0, help="the longest that they may take")
    parser.add_argument("--slots", type=int, default=300, help="clients at once")
    parser.add_argument("--kill-every", type=float, default=25.0, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=1)
    sys.exit(uvloop.run(main(parser.parse_args())))
