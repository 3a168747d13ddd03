"""An upstream that fails on request: `python -m benchmarks.soak.application PORT`. /error is answered 500, /break is
broken off within the answer's head, /slow takes a while; all else is answered 200 once its body has come.
"""

import asyncio
import re
import sys

import uvloop

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nHello, world!"
ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\n\r\noops\n"
SLOW_S = 0.2
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one connection's requests, one after the other."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if (length := _LENGTH.search(head)) is not None:
                await reader.readexactly(int(length[1]))
            path = head.split(b" ", 2)[1]
            if path == b"/break":
                writer.write(b"HTTP/1.1 200 O")
                break
            if path == b"/slow":
                await asyncio.sleep(SLOW_S)
            writer.write(ERROR if path == b"/error" else OK)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(port: int) -> None:
    """Serve on a port of 127.0.0.1 until killed."""
    _ = await asyncio.start_server(serve, "127.0.0.1", port, backlog=1024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
