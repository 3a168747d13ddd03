"""Faults injected beside the steady traffic: clients that leave at every stage, an application that breaks off, and
edits of the configuration. Each request that waits for its answer says what that must be.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

PAUSE_S = 0.05
RELOAD_EVERY_S = 2.0
_PATIENCE_S = 10.0


class Trouble:
    """Injects faults into a sidecar until cancelled. `unexpected` collects wrong results."""

    def __init__(self, port: int, pid: int, config: Path) -> None:
        self._port = port
        self._pid = pid
        self._config = config
        self.made: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()

    async def make(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            for trouble in (self._leave, self._break, self._reload):
                _ = group.create_task(trouble())

    async def _leave(self) -> None:
        """Leave in the head, in the body, before the answer."""
        beginnings = (
            b"GET /wide HTTP/1.1\r\nHost: x\r\nX-User",
            b"POST /wide HTTP/1.1\r\nHost: x\r\nX-User-ID: u\r\nContent-Length: 1000\r\n\r\n123",
            b"GET /slow HTTP/1.1\r\nHost: x\r\nX-User-ID: u\r\n\r\n",
        )
        while True:
            async with self._connected() as (_, writer):
                writer.write(random.choice(beginnings))
                await asyncio.sleep(random.uniform(0, PAUSE_S))
                if random.random() < 0.5:
                    writer.transport.abort()
            self.made["clients that left"] += 1

    async def _break(self) -> None:
        """Ask for an answer that the application breaks off."""
        while True:
            await asyncio.sleep(PAUSE_S * 2)
            status = await self._status("/break")
            self.made["answers broken off"] += 1
            if status != 502:
                self.unexpected[f"/break was answered {status}"] += 1

    async def _reload(self) -> None:
        """Edit the configuration, rightly and wrongly, or send SIGHUP; limits stay as they are."""
        text = await asyncio.to_thread(self._config.read_text)
        for edit in ("# edited\n", "policies: [nonsense\n", "", "# edited again\n") * 1_000_000:
            await asyncio.sleep(RELOAD_EVERY_S)
            await asyncio.to_thread(self._config.write_text, text + edit)
            os.kill(self._pid, signal.SIGHUP)
            self.made["reloads"] += 1

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _status(self, path: str) -> int | str:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                async with self._connected() as (reader, writer):
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-User-ID: u\r\n\r\n".encode())
                    return int((await reader.readline()).split(b" ", 2)[1])
        except (OSError, IndexError, ValueError) as error:
            return type(error).__name__
