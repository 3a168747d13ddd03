"""A WebSocket after its handshake: the bytes of both sides are passed on unchanged.

The handshake was limited and forwarded like any request; when the application has agreed with 101, the two connections
get new protocols without HTTP. Each side is read no faster than the other one takes what it sends. Frames
are not decoded; only their ends are tracked (`Frames`), since a close frame may be inserted between two frames:
when the sidecar stops, or nothing has moved for `idle_timeout_s`, both sides receive a close frame (1001, "going
away") and get a moment to answer it. Bytes that are no valid frames are forwarded too.
"""

import asyncio
from collections.abc import Callable

from sidegate.edge.deadline import Deadline

# The time for either side to answer a close frame, and then to read the bytes that are still being sent to it.
CLOSING_S = 1.0

# RFC 6455 §5.5.1, §7.4.1: FIN and opcode 8, a body of two bytes: 1001. A client's frames are masked, here with zeros.
_TO_CLIENT = b"\x88\x02\x03\xe9"
_TO_APPLICATION = b"\x88\x82\x00\x00\x00\x00\x03\xe9"

_EXTENDED_BYTES = {126: 2, 127: 8}


class Frames:
    """Follows the frames of one direction (RFC 6455 §5.2) by their lengths alone."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._head = b""  # of a frame whose head has not come whole
        self._left = 0  # bytes of the present frame's body that are still to come

    @property
    def between(self) -> bool:
        """Whether the next byte begins a frame."""
        return not self._left and not self._head

    def feed(self, data: bytes, *, only_this_frame: bool = False) -> int:
        """Follow what comes; returns how much of it was followed: all, or up to the end of the frame begun before."""
        at = 0
        while at < len(data):
            if only_this_frame and self.between:
                return at
            if self._left:
                taken = min(self._left, len(data) - at)
                self._left -= taken
                at += taken
            else:
                at += self._take_head(data, at)
        return at

    def _take_head(self, data: bytes, at: int) -> int:
        known = len(self._head)
        head = self._head + data[at : at + 14 - known]
        if len(head) < 2:
            self._head = head
            return len(head) - known
        extended, mask_bytes = _EXTENDED_BYTES.get(head[1] & 127, 0), 4 if head[1] & 128 else 0
        size = 2 + extended + mask_bytes
        if len(head) < size:
            self._head = head
            return len(head) - known
        self._head = b""
        self._left = int.from_bytes(head[2 : 2 + extended], "big") if extended else head[1] & 127
        return size - known


class Tunnel:
    """Joins two connections. Both transports are its own from now on, until `ended` has been called for each."""

    def __init__(
        self,
        client: asyncio.Transport,
        client_ended: Callable[[BaseException | None], None],
        application: asyncio.Transport,
        application_ended: Callable[[BaseException | None], None],
        idle_timeout_s: float,
    ) -> None:
        self._idle_timeout_s = idle_timeout_s
        self._closing = False
        self._deadline = Deadline(asyncio.get_running_loop(), self._time_is_over)
        self._client = _Side(self, client, client_ended, _TO_CLIENT)
        self._application = _Side(self, application, application_ended, _TO_APPLICATION)
        self._client.other, self._application.other = self._application, self._client

    def start(self, from_client: bytes, from_application: bytes) -> None:
        """Forward the bytes behind the handshake, then all further ones."""
        self._deadline.set(self._idle_timeout_s)
        for side, early in ((self._client, from_client), (self._application, from_application)):
            side.transport.set_protocol(side)
            if early:
                side.data_received(early)
            side.let_read()

    def go_away(self) -> None:
        """Send close frames to both sides, and close soon."""
        if self._closing:
            return
        self._closing = True
        self._deadline.set(CLOSING_S)
        for side in (self._client, self._application):
            side.send_close_between_frames()

    def moved(self) -> None:
        """Restart the idle timeout: a side has sent bytes."""
        if not self._closing:
            self._deadline.set(self._idle_timeout_s)

    def side_ended(self, side: "_Side", error: BaseException | None) -> None:
        """One side's connection is lost: what came from it still reaches the other, unless it was broken off."""
        self._closing = True
        other = side.other
        if other.lost:
            self._deadline.close()
        elif error is not None:
            other.transport.abort()
        else:
            other.transport.close()
            self._deadline.set(CLOSING_S)

    def _time_is_over(self) -> None:
        if not self._closing:
            self.go_away()
            return
        for side in (self._client, self._application):
            if not side.lost:
                side.transport.abort()


class _Side(asyncio.Protocol):
    """One of the two connections. What it receives goes to `other`."""

    other: "_Side"

    def __init__(
        self,
        tunnel: Tunnel,
        transport: asyncio.Transport,
        ended: Callable[[BaseException | None], None],
        close_frame: bytes,
    ) -> None:
        self.transport = transport
        self.lost = False
        self._tunnel = tunnel
        self._ended = ended
        self._close_frame = close_frame
        self._to_it = Frames()
        self._leaving = False  # a close frame is to be sent at the end of the present frame
        self._left = False  # it is sent: nothing may follow it

    def data_received(self, data: bytes) -> None:
        self._tunnel.moved()
        self.other.send(data)

    def send(self, data: bytes) -> None:
        """Pass on bytes to this side, until a close frame was sent to it."""
        if self._left or self.lost:
            return
        if not self._leaving:
            _ = self._to_it.feed(data)
            self.transport.write(data)
            return
        self.transport.write(data[: self._to_it.feed(data, only_this_frame=True)])
        self.send_close_between_frames()

    def send_close_between_frames(self) -> None:
        """Send the close frame now, or as soon as the frame on its way to this side has ended."""
        self._leaving = True
        if self._to_it.between and not self._left and not self.lost:
            self._left = True
            self.transport.write(self._close_frame)

    def let_read(self) -> None:
        """Go on receiving."""
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.let_read()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True
        self._tunnel.side_ended(self, exc)
        self._ended(exc)
