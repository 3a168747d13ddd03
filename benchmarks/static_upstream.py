"""The fastest application that still speaks HTTP: one fixed answer to every request. `python -m
benchmarks.static_upstream PORT`."""

import asyncio
import sys
from typing import cast

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: static\r\nContent-Length: 13\r\n\r\nHello, world!"


class Static(asyncio.Protocol):
    """Answers each request head; knows no bodies."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        heads = (self._rest + data).split(b"\r\n\r\n")
        self._rest = heads[-1]
        self._transport.write(ANSWER * (len(heads) - 1))


async def main(port: int) -> None:
    """Serve on a port of 127.0.0.1 until killed."""
    await asyncio.get_running_loop().create_server(Static, "127.0.0.1", port, backlog=1024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
