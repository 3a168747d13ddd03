"""The socket of one client's connection: writing, pausing, and the ways to end it."""

import socket
import struct
from typing import Any

from sidegate.decision.identity import UNIX_PEER
from sidegate.edge.buffers import BufferBudget
from sidegate.edge.client_certificate import certificate_name

# A slow client must take so much within `listen.write_timeout`.
PIECE_BYTES = 64 * 1024

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing resets


def plain_address(address: str) -> str:
    """The address without the form that IPv4 has on a socket for both versions (RFC 4291 §2.5.5.2)."""
    mapped = address.removeprefix("::ffff:")
    return mapped if "." in mapped else address


def peer_address(transport: Any) -> str:
    """The address of a transport's peer; `unix` on a Unix socket."""
    peer = transport.get_extra_info("peername")
    return plain_address(peer[0]) if isinstance(peer, tuple) else UNIX_PEER


class ClientSocket:
    """One client's transport. `writing_paused`: the client does not take what is sent to it at present.

    What it has not taken yet waits in the transport's buffer, which is counted in the shared budget from the moment
    that writing pauses until the buffer is nearly empty.
    """

    __slots__ = (
        "_budget",
        "_lent_bytes",
        "_marked_bytes",
        "_marked_s",
        "client_cert",
        "peer",
        "transport",
        "writing_paused",
    )

    def __init__(self, transport: Any) -> None:  # uvloop's transports are no subclasses of asyncio's
        self.transport = transport
        self.peer = peer_address(transport)
        # The handshake has verified it.
        tls = transport.get_extra_info("ssl_object")
        self.client_cert = "" if tls is None else certificate_name(tls.getpeercert())
        self.writing_paused = False
        self._budget: BufferBudget | None = None
        self._lent_bytes = self._marked_bytes = 0
        self._marked_s = 0.0

    @property
    def gone(self) -> bool:
        """Whether nothing can be sent any more."""
        return bool(self.transport.is_closing())

    def write(self, data: bytes) -> None:
        """Send, unless the client has left."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def buffers(self, budget: BufferBudget, most_bytes: int) -> bool:
        """Whether further bytes of an answer may be buffered for the client, up to `most_bytes`."""
        held = int(self.transport.get_write_buffer_size())
        if held > most_bytes or not budget.lend_response(held - self._lent_bytes):
            return False
        self._budget, self._lent_bytes = budget, held
        return True

    def release_buffer(self) -> None:
        """Return the buffer: the client has read everything, or has left."""
        if self._budget is not None:
            _ = self._budget.lend_response(-self._lent_bytes)
            self._budget, self._lent_bytes = None, 0

    def mark(self, now_s: float) -> None:
        """Start the time in which the client must read the buffered bytes."""
        self._marked_s, self._marked_bytes = now_s, int(self.transport.get_write_buffer_size())

    def expect_more(self, count: int) -> None:
        """Count bytes that are added to the buffer."""
        self._marked_bytes += count

    def time_to_send_s(self, now_s: float, timeout_s: float) -> float:
        """The time left for the client to read the buffered bytes: `timeout_s` for every 64 KiB.

        0: it has stalled, or nothing waits.
        """
        waiting = int(self.transport.get_write_buffer_size())
        if waiting and now_s - self._marked_s >= timeout_s and self._marked_bytes - waiting >= PIECE_BYTES:
            self.mark(now_s)
        return max(0.0, self._marked_s + timeout_s - now_s) if waiting else 0.0

    def pause_reading(self) -> None:
        """Stop receiving until `resume_reading`."""
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Continue receiving."""
        if not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()

    def end_of_output(self) -> None:
        """Close the sending side, and continue receiving."""
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
