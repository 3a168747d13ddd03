"""A minimal upstream: one fixed response to every request. `python -m benchmarks.static_upstream PORT`.

If the target ends in `?unlike`, each response has an X-Response-ID of its own and a Date.
"""

import asyncio
import itertools
import re
import sys
from email.utils import formatdate
from typing import cast

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: static\r\nContent-Length: 13\r\n\r\nHello, world!"


_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


_counts = itertools.count()
_UNLIKE = ANSWER.replace(b"\r\nContent-Type", b"\r\nDate: %b\r\nX-Response-ID: %016x\r\nContent-Type")


class Static(asyncio.Protocol):
    """Responds to each request once its body has arrived; bodies are discarded, chunked ones are not supported."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._rest = b""
        self._unlike = False
        self._body_left = -1  # bytes; below zero while a head is awaited

    def data_received(self, data: bytes) -> None:
        self._rest += data
        answers = b""
        while self._rest or self._body_left == 0:
            if self._body_left < 0:
                head, blank, self._rest = self._rest.partition(b"\r\n\r\n")
                if not blank:
                    self._rest = head
                    break
                length = _LENGTH.search(head)
                self._body_left = int(length[1]) if length else 0
                self._unlike = b"?unlike HTTP/1." in head
            taken = min(self._body_left, len(self._rest))
            self._rest, self._body_left = self._rest[taken:], self._body_left - taken
            if self._body_left:
                break
            answers, self._body_left = answers + self._answer(), -1
        self._transport.write(answers)

    def _answer(self) -> bytes:
        if not self._unlike:
            return ANSWER
        return _UNLIKE % (formatdate(usegmt=True).encode(), next(_counts))


async def main(port: int) -> None:
    """Serve on a port of 127.0.0.1 until the process is killed."""
    await asyncio.get_running_loop().create_server(Static, "127.0.0.1", port, backlog=1024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
