"""A TCP proxy before the store that injects network and server faults into replies. Runs on its own thread."""

import asyncio
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

# The fate of one chunk from the store: chunks to pass on, and whether to close the connection after them.
Fault = Callable[[bytes], tuple[list[bytes], bool]]


def passes(data: bytes) -> tuple[list[bytes], bool]:
    return [data], False


def swallows(_: bytes) -> tuple[list[bytes], bool]:
    """A black hole: nothing arrives, and the connection stays open."""
    return [], False


def truncates(data: bytes) -> tuple[list[bytes], bool]:
    """Half a reply, and then nothing."""
    return [data[: len(data) // 2]], False


def cuts(data: bytes) -> tuple[list[bytes], bool]:
    """Half a reply, then the end of the connection."""
    return [data[: len(data) // 2]], True


def garbles(data: bytes) -> tuple[list[bytes], bool]:
    """Another protocol's answer."""
    return [b"HTTP/1.1 400 Bad Request\r\n\r\n", data], False


class MixesUp:
    """Delays some chunks until after the next one."""

    def __init__(self, every: int = 5) -> None:
        self._every = every
        self._count = 0
        self._held = b""

    def __call__(self, data: bytes) -> tuple[list[bytes], bool]:
        self._count += 1
        if self._held:
            held, self._held = self._held, b""
            return [data, held], False
        if self._count % self._every == 0:
            self._held = data
            return [], False
        return [data], False


def repeats(data: bytes) -> tuple[list[bytes], bool]:
    """Every chunk twice."""
    return [data, data], False


@dataclass(frozen=True, slots=True)
class Delay:
    """Each chunk arrives later, in order."""

    mean_s: float
    spread_s: float = 0.0

    def draw_s(self) -> float:
        return self.mean_s + random.uniform(-self.spread_s, self.spread_s)


class FaultProxy:
    """Forwards everything until `fault` or `delay` is set, which also affects open connections."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self.fault: Fault = passes
        self.delay = Delay(0.0)
        self.accepted = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self.port: int = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def heal(self) -> None:
        """Forward everything again. Connections with damaged data stay open until their owners close them."""
        self.fault, self.delay = passes, Delay(0.0)

    def reset_all(self) -> None:
        """Reset every connection."""
        self._loop.call_soon_threadsafe(self._abort)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _end(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        self._abort()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            from_store, to_store = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, to_store}
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._questions(reader, to_store))
                both.create_task(self._replies(from_store, writer))
        except* OSError:
            pass
        finally:
            self._writers -= {writer, to_store}
            for each in (writer, to_store):
                each.transport.abort()

    async def _questions(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        raise ConnectionResetError

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._deliver(waiting, writer))
            while data := await reader.read(65536):
                waiting.put_nowait((self._loop.time() + self.delay.draw_s(), data))
            raise ConnectionResetError

    async def _deliver(self, waiting: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        while True:
            due_s, data = await waiting.get()
            if (pause_s := due_s - self._loop.time()) > 0:
                await asyncio.sleep(pause_s)
            pieces, hang_up = self.fault(data)
            for piece in pieces:
                writer.write(piece)
            if hang_up:
                await writer.drain()
                raise ConnectionResetError
