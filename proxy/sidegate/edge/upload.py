"""A request's body on its way to the application: held until there is a connection, then sent as it arrives.

No task: bytes come in by `received` and leave by the connection's `write`. The client is read no faster than the
application takes the body: reading pauses while the held bytes are over their bound or the connection is full. The time
that a client may take is counted by `BodyPatience`, and only while the sidecar waits for the client.
"""

import asyncio
import time
from typing import Protocol

from sidegate.config import ListenSettings
from sidegate.edge.body_rate import BodyPatience
from sidegate.edge.deadline import Deadline
from sidegate.edge.failures import Failure
from sidegate.edge.upstream import UpstreamConnection

# A body that waits for its verdict or for a connection fills at most about this much memory.
MOST_HELD_BYTES = 128 * 1024

LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """The data as one chunk (RFC 9112 §7.1); it may not be empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Uploader(Protocol):
    """The owner of an upload."""

    def pause_reading(self) -> None:
        """Read no more from the client."""

    def resume_reading(self) -> None:
        """Read on."""

    def upload_failed(self, failure: Failure) -> None:
        """The body cannot be sent any further."""

    def upload_ended(self) -> None:
        """The whole body is on its way; the answer is waited for from now on."""


class Upload:
    """One request's body.

    `ended`: all of it has come. `taken`: it ended before it was sent, and is sent with its head. `sent`: all of it is
    on its way. `broken`: its framing is invalid, and no more of it is read.
    """

    __slots__ = (
        *("_chunked", "_connection", "_deadline", "_held", "_owner", "_patience", "_settings", "_since_s"),
        *("body_bytes", "broken", "ended", "sent", "taken"),
    )

    def __init__(self, owner: Uploader, settings: ListenSettings, *, chunked: bool) -> None:
        self._owner = owner
        self._settings = settings
        self._chunked = chunked
        self._connection: UpstreamConnection | None = None
        self._held: list[bytes] = []
        self._deadline: Deadline | None = None
        self._patience: BodyPatience | None = None
        self._since_s = 0.0  # since when the client is waited for; 0: it is not
        self.body_bytes = 0
        self.ended = self.taken = self.sent = self.broken = False

    @property
    def too_large(self) -> bool:
        """Whether more has come than a request may have."""
        most = self._settings.max_body_bytes
        return most is not None and self.body_bytes > most

    def received(self, data: bytes, *, ended: bool) -> None:
        """More of the body, perhaps its end."""
        self.body_bytes += len(data)
        self.ended = ended
        connection = self._connection
        if connection is None:
            self._held.append(data)
            if self.body_bytes > MOST_HELD_BYTES and not ended:
                self._owner.pause_reading()
        elif self.too_large:
            self._owner.upload_failed(Failure.BODY_TOO_LARGE)
        else:
            self._count_wait(len(data))
            self._send(connection, data)

    def take_whole(self) -> bytes:
        """The whole body, which has ended before it was sent."""
        self.taken = self.sent = True
        return self._take_held()

    def start(self, connection: UpstreamConnection) -> None:
        """Send what has come, and the rest as it comes."""
        self._connection = connection
        self._patience = BodyPatience(self._settings.body_timeout_s, self._settings.min_body_bytes_per_s)
        self._deadline = Deadline(asyncio.get_running_loop(), self._timed_out)
        data = self._take_held()
        self._owner.resume_reading()
        self._wait()
        self._send(connection, data)

    def pause(self) -> None:
        """The application takes no more for now."""
        if self._connection is not None and not self.ended:
            self._count_wait(0)
            self._since_s = 0.0
            if self._deadline is not None:
                self._deadline.clear()
            self._owner.pause_reading()

    def resume(self) -> None:
        """The application takes more."""
        if self._connection is not None and not self.ended:
            self._owner.resume_reading()
            self._wait()

    def stop(self) -> None:
        """Send no more."""
        self._connection = None
        self._held.clear()
        if self._deadline is not None:
            self._deadline.close()

    def _take_held(self) -> bytes:
        held, self._held = self._held, []
        return b"".join(held)

    def _send(self, connection: UpstreamConnection, data: bytes) -> None:
        if data:
            connection.write(chunk(data) if self._chunked else data)
        if self.ended:
            if self._chunked:
                connection.write(LAST_CHUNK)
            self.sent = True
            self.stop()
            self._owner.upload_ended()

    def _wait(self) -> None:
        self._since_s = time.perf_counter()
        if self._deadline is not None and self._patience is not None:
            self._deadline.set(max(0.0, self._patience.left_s))

    def _count_wait(self, body_bytes: int) -> None:
        """Take the time since the client was last waited for out of its patience, and wait again."""
        if self._since_s and self._patience is not None:
            self._patience.received(body_bytes, time.perf_counter() - self._since_s)
            self._wait()

    def _timed_out(self) -> None:
        self._owner.upload_failed(Failure.BODY_TIMEOUT)
