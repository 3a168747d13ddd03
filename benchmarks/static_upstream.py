"""The fastest application that still speaks HTTP: one fixed answer to every request. `python -m
benchmarks.static_upstream PORT`."""

import asyncio
import re
import sys
from typing import cast

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: static\r\nContent-Length: 13\r\n\r\nHello, world!"


_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Static(asyncio.Protocol):
    """Answers each request when its body has come, of which it keeps nothing; knows no chunked ones."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._rest = b""
        self._body_left = -1  # bytes; below zero while a head is awaited

    def data_received(self, data: bytes) -> None:
        self._rest += data
        answers = 0
        while self._rest or self._body_left == 0:
            if self._body_left < 0:
                head, blank, self._rest = self._rest.partition(b"\r\n\r\n")
                if not blank:
                    self._rest = head
                    break
                length = _LENGTH.search(head)
                self._body_left = int(length[1]) if length else 0
            taken = min(self._body_left, len(self._rest))
            self._rest, self._body_left = self._rest[taken:], self._body_left - taken
            if self._body_left:
                break
            answers, self._body_left = answers + 1, -1
        self._transport.write(ANSWER * answers)


async def main(port: int) -> None:
    """Serve on a port of 127.0.0.1 until killed."""
    await asyncio.get_running_loop().create_server(Static, "127.0.0.1", port, backlog=1024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
