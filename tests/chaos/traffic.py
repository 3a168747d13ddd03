"""Steady traffic over several sidecars: requests are sent by the clock, independent of earlier answers."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# A request without an answer by then counts as hung.
HUNG_AFTER_S = 15.0
# Requests without an answer yet, beyond which what is due is not sent: on a machine that cannot carry the rate they would
# grow without end. Twenty times what a timeout of 50 ms keeps waiting at 500/s.
MOST_UNDER_WAY = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """A planned request: its target, its user and its kind."""

    kind: str
    user: str
    target: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The result of one request. `status` 0: no answer. `echoed`: a 200 that carries its own target."""

    wanted: Wanted
    sidecar: int
    sent_s: float
    took_s: float
    status: int
    echoed: bool


class _Line(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._unread = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, data: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, found, rest = self._unread.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
        if len(rest) < length:
            return
        self._unread = rest[length:]
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((int(head.split(b" ", 2)[1]), rest[:length]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((0, b""))


class Traffic:
    """Sends `rate_per_s` requests a second, in turn over the ports, until `stop`. Run `run` as a task.

    With MOST_UNDER_WAY requests under way, no further one is sent until one of them has ended.
    """

    def __init__(self, ports: Sequence[int], rate_per_s: float, choose: Callable[[int], Wanted]) -> None:
        self._ports = ports
        self._rate_per_s = rate_per_s
        self._choose = choose
        self._idle: list[list[_Line]] = [[] for _ in ports]
        self._stopping = False
        self.answers: list[Answered] = []

    def stop(self) -> None:
        self._stopping = True

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        start_s, number, tasks = loop.time(), 0, set[asyncio.Task[None]]()
        while not self._stopping:
            due_s = start_s + number / self._rate_per_s
            if (pause_s := due_s - loop.time()) > 0:
                await asyncio.sleep(pause_s)
            if len(tasks) < MOST_UNDER_WAY:
                task = loop.create_task(self._one(self._choose(number), number % len(self._ports)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.gather(*tasks)
        for line in (line for lines in self._idle for line in lines):
            line.transport.abort()

    async def volley(self, count: int) -> int:
        """Send `count` requests at once; returns how many passed."""
        await asyncio.gather(*(self._one(self._choose(number), number % len(self._ports)) for number in range(count)))
        for line in (line for lines in self._idle for line in lines):
            line.transport.abort()
        return sum(each.status == 200 for each in self.answers)

    async def _one(self, wanted: Wanted, sidecar: int) -> None:
        loop = asyncio.get_running_loop()
        sent_s = loop.time()
        status, body = 0, b""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(HUNG_AFTER_S):
                line = await self._line(sidecar)
                head = f"GET {wanted.target} HTTP/1.1\r\nHost: app.test\r\nX-User-ID: {wanted.user}\r\n\r\n"
                status, body = await line.ask(head.encode())
                if not line.lost:
                    self._idle[sidecar].append(line)
        took_s = loop.time() - sent_s
        echoed = body == wanted.target.encode()
        self.answers.append(Answered(wanted, sidecar, sent_s, took_s, status, echoed))

    async def _line(self, sidecar: int) -> _Line:
        idle = self._idle[sidecar]
        while idle:
            line = idle.pop()
            if not line.lost:
                return line
        _, line = await asyncio.get_running_loop().create_connection(_Line, "127.0.0.1", self._ports[sidecar])
        return line
