"""The socket of one client's connection: writing, pausing, and the ways to end it."""

import socket
import struct
from typing import Any

from sidegate.decision.identity import UNIX_PEER

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing resets


def _plain_address(address: str) -> str:
    """The address without the form that IPv4 has on a socket for both versions (RFC 4291 §2.5.5.2)."""
    mapped = address.removeprefix("::ffff:")
    return mapped if "." in mapped else address


class ClientSocket:
    """One client's transport. `writing_paused`: the client does not take what is sent to it at present."""

    __slots__ = ("peer", "transport", "writing_paused")

    def __init__(self, transport: Any) -> None:  # uvloop's transports are no subclasses of asyncio's
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.peer: str = _plain_address(peer[0]) if isinstance(peer, tuple) else UNIX_PEER
        self.writing_paused = False

    @property
    def gone(self) -> bool:
        """Whether nothing can be sent any more."""
        return bool(self.transport.is_closing())

    def write(self, data: bytes) -> None:
        """Send, unless the client has left."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def pause_reading(self) -> None:
        """Receive no more for now."""
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Receive more."""
        if not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()

    def end_of_output(self) -> None:
        """Send the end, and go on receiving."""
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def close(self) -> None:
        """End the connection when everything is sent."""
        self.transport.close()

    def break_off(self) -> None:
        """End the connection at once."""
        self.transport.abort()

    def reset(self) -> None:
        """End the connection at once with a reset, so that no answer can look complete.

        A plain end is the proper end of an answer without length, as HTTP/1.0 clients get them.
        """
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()
