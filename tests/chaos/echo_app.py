"""An application that answers each request with its target and prints a summary at the end. Run as a process.

A target with `/slow/` in it is answered after SLOW_S. With the argument `forgetful` it keeps nothing in mind.
"""

import asyncio
import contextlib
import sys

SLOW_S = 1.5


class Echo(asyncio.Protocol):
    seen: list[bytes] = []  # noqa: RUF012  (one application, one list)
    forgetful = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._unread = b""

    def data_received(self, data: bytes) -> None:
        *heads, self._unread = (self._unread + data).split(b"\r\n\r\n")
        for head in heads:
            target = head.split(b" ", 2)[1]
            body = b"\n".join(self.seen) if target == b"/seen" else target
            if target != b"/seen" and not self.forgetful:
                self.seen.append(target)
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            if b"/slow/" in target:
                asyncio.get_running_loop().call_later(SLOW_S, self._transport.write, answer)
            else:
                self._transport.write(answer)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    Echo.forgetful = "forgetful" in sys.argv
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
