"""JSON messages between parent and worker, one a line, over a pair of sockets. EOF: the other side has ended."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

import orjson

Message = dict[str, Any]

# Bounds one message: a worker's metrics take about 100 bytes a series.
_LARGEST_MESSAGE_BYTES = 16 * 2**20
# Bounds the messages that wait for a process that hangs.
_MOST_UNTAKEN_BYTES = 2**20


class Channel:
    """One end. Build it with `open_channel`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: Message) -> None:
        """Send without waiting. The message is lost if the other side has ended or has stopped reading."""
        if not self._writer.is_closing() and self._writer.transport.get_write_buffer_size() < _MOST_UNTAKEN_BYTES:
            self._writer.write(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))

    async def listen(self, receive: Callable[[Message], None]) -> None:
        """Call `receive` with each message until the other side ends."""
        try:
            while line := await self._reader.readline():
                receive(orjson.loads(line))
        except (ConnectionError, ValueError):
            return  # reset, or cut off within a message: treated as the end

    async def close(self) -> None:
        """Close the channel and wait until it is closed."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


async def open_channel(end: socket.socket) -> Channel:
    """Take over one end of a pair of sockets."""
    return Channel(*await asyncio.open_connection(sock=end, limit=_LARGEST_MESSAGE_BYTES))
