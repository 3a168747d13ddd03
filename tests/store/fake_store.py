"""A fake store that sends replies that a real one does not send on request. It implements just enough of a handshake."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import hiredis

# Hang up instead of answering.
HANG_UP = b""
# Say nothing, and keep the line.
SILENCE = None


class FakeStore:
    """Answers the n-th script call with the n-th of `says`, and the last of them ever after; all else with +OK.

    `TAG` in an answer stands for the call's own number.
    """

    def __init__(self, says: Sequence[bytes | None]) -> None:
        self.says = list(says)
        self.port = 0
        self.asked: list[list[bytes]] = []
        self.connections = 0
        self.hangs_up_on = b""
        self.hangs_up_after = b""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        commands = hiredis.Reader()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                commands.feed(data)
                while command := commands.gets():
                    if isinstance(command, list) and command[0] == self.hangs_up_on:
                        return
                    if not isinstance(command, list) or command[0] not in (b"EVALSHA", b"EVAL"):
                        writer.write(b"+OK\r\n")
                        if isinstance(command, list) and command[0] == self.hangs_up_after:
                            return
                        continue
                    reply = self.says[min(len(self.asked), len(self.says) - 1)]
                    self.asked.append(command)
                    if reply == HANG_UP:
                        return
                    if reply is not None:
                        writer.write(reply.replace(b"TAG", command[-1]))

    async def answer_and_close(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.answer(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def fake_store(*says: bytes | None) -> AsyncIterator[FakeStore]:
    fake = FakeStore(says)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(fake.answer_and_close(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
