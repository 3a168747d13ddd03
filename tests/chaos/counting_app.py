"""An application that counts, for each key, the requests that it works on at once. Run as a process.

`/api/KEY/KIND/MS/NUMBER` takes MS milliseconds of work, of the kind

    whole    one answer at the end; the work goes on though the connection closes, as that of most handlers does
    stream   an answer in four pieces, the first after a quarter of the time; the work ends with the connection
    close    no answer: the connection is closed at the end

`/report` is a JSON object: the most at once by key, how often a key was above its limit, how many requests were worked
on, by key the times (of the monotonic clock) at which the limit was reached and left, and by number the time of the end
of its work. LIMITS are by the first part of the key.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter, defaultdict
from typing import Any

import uvloop

LIMITS = {"one": 1, "three": 3, "ten": 10}
_PIECES = 4


class Works:
    """What is under way, by key."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.peaks: Counter[str] = Counter()
        self.above = 0
        self.done = 0
        self.turns: dict[str, list[float]] = defaultdict(list)
        self.ends: dict[str, float] = {}

    def begin(self, key: str) -> None:
        self.running[key] += 1
        running, limit = self.running[key], LIMITS[key.partition("-")[0]]
        self.peaks[key] = max(self.peaks[key], running)
        self.above += running > limit
        if running == limit:
            self.turns[key].append(time.monotonic())

    def end(self, key: str, number: str) -> None:
        self.ends[number] = time.monotonic()
        if self.running[key] == LIMITS[key.partition("-")[0]]:
            self.turns[key].append(time.monotonic())
        self.running[key] -= 1
        self.done += 1

    def report(self) -> bytes:
        found = {"peaks": self.peaks, "above": self.above, "done": self.done, "turns": self.turns, "ends": self.ends}
        return json.dumps({**found, "running": sum(self.running.values())}).encode()


class Counted(asyncio.Protocol):
    works = Works()

    def connection_made(self, transport: Any) -> None:  # uvloop's is no subclass of asyncio's
        self._transport = transport
        self._unread = b""
        self._streaming: tuple[str, str] | None = None

    def data_received(self, data: bytes) -> None:
        *heads, self._unread = (self._unread + data).split(b"\r\n\r\n")
        for head in heads:
            target = head.split(b" ", 2)[1].decode()
            if target == "/report":
                self._answer(self.works.report())
                continue
            _, _, key, kind, milliseconds, number = target.split("/")
            self.works.begin(key)
            loop, work_s = asyncio.get_running_loop(), int(milliseconds) / 1000
            if kind == "stream":
                self._streaming = (key, number)
                loop.call_later(work_s / _PIECES, self._piece, work_s, 1)
            else:
                loop.call_later(work_s, self._end_of_work, key, number, kind)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._streaming is not None:
            self._end_of_stream(*self._streaming)

    def _end_of_stream(self, key: str, number: str) -> None:
        self._streaming = None
        self.works.end(key, number)

    def _end_of_work(self, key: str, number: str, kind: str) -> None:
        self.works.end(key, number)
        if kind == "close":
            self._transport.close()
        else:
            self._answer(b"ok")

    def _piece(self, work_s: float, piece: int) -> None:
        if self._streaming is None or self._transport.is_closing():
            return
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" if piece == 1 else b""
        if piece < _PIECES:
            self._transport.write(head + b"5\r\npiece\r\n")
            asyncio.get_running_loop().call_later(work_s / _PIECES, self._piece, work_s, piece + 1)
        else:
            self._end_of_stream(*self._streaming)
            self._transport.write(b"5\r\npiece\r\n0\r\n\r\n")

    def _answer(self, body: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Counted, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve())
