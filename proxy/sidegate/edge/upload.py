"""A request's body on its way to the application: held until there is a connection, then sent as it arrives.

    HOLDING ── a connection ──► FLOWING ◄──► PAUSED (the application takes no more) ── all is sent ──► SENT
     ▲ │ └── it ended before it was sent: goes with the head ────────────────────────────────────────┘
     │ └── it may fit into `request_buffer` ──► COLLECTING ── it has ended, or does not fit ──► HOLDING
     └──────────────────────────────────────────────┘
    HOLDING, COLLECTING ── its framing is invalid ──► BROKEN          any ── given up ──► STOPPED

A body that is collected takes no connection of the application while a slow client sends it, and has a Content-Length
then, however it came: WSGI servers read nothing of a chunked body. Whether that is so depends on its size alone, and
not on how its segments fell.

No task: bytes come in by `received` and leave by the connection's `write`. The client is read no faster than the
application takes the body. The time that a client may take is counted by `BodyAllowance`, and only while the sidecar
waits for the client.
"""

from enum import Enum
from typing import Protocol

from sidegate.config import ListenSettings
from sidegate.edge.body_rate import BodyAllowance, BodyClock
from sidegate.edge.buffers import RequestShare
from sidegate.edge.failures import Failure
from sidegate.edge.heads import BodyLength

# A body that waits for its verdict or for a connection fills at most about this much memory.
MOST_HELD_BYTES = 128 * 1024

CHUNKED_LINE = b"Transfer-Encoding: chunked\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """The data as one chunk (RFC 9112 §7.1); it may not be empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class BodySource(Protocol):
    """The connection that the body comes from."""

    def pause_reading(self) -> None:
        """Receive no more for now."""

    def resume_reading(self) -> None:
        """Receive more."""


class UploadSink(Protocol):
    """The connection that the body goes to."""

    def write(self, data: bytes) -> None:
        """Send, unless the connection is lost."""

    def expect_answer(self, timeout_s: float) -> None:
        """The whole body is on its way: wait for the answer from now on."""


class UploadOwner(Protocol):
    """The exchange whose request has the body."""

    def give_up(self, failure: Failure) -> None:
        """The body cannot be sent any further."""

    def body_collected(self) -> None:
        """The body is whole, or cannot be collected any further: send the request."""


class UploadState(Enum):
    """See the module's text."""

    HOLDING = "held until there is a connection"
    COLLECTING = "received whole, before a connection is used"
    FLOWING = "sent as it comes"
    PAUSED = "the application takes no more for now"
    SENT = "all of it is on its way"
    SENT_WHOLE = "the same, and it was whole before, so that it can be sent again"
    BROKEN = "its framing is invalid"
    STOPPED = "given up"


_HOLDING, _COLLECTING, _FLOWING, _PAUSED, _SENT, _SENT_WHOLE, _BROKEN, _STOPPED = UploadState


class Upload:
    """One request's body. `ended`: all of it has come."""

    __slots__ = (
        *("_chunked", "_clock", "_connection", "_held", "_owner", "_settings", "_source", "_timeout_s"),
        *("body_bytes", "ended", "share", "state"),
    )

    def __init__(self, source: BodySource, settings: ListenSettings, share: RequestShare, *, chunked: bool) -> None:
        self._source = source
        self._chunked = chunked
        self._settings = settings
        self._held: list[bytes] = []
        self.share = share
        self.body_bytes = 0
        self.ended = False
        self.state = _HOLDING

    @property
    def broken(self) -> bool:
        """Whether its framing is invalid."""
        return self.state is _BROKEN

    @property
    def too_large(self) -> bool:
        """Whether more has come than a request may have."""
        return self.exceeds(self.body_bytes)

    def exceeds(self, body_bytes: int) -> bool:
        """Whether a body of this length is larger than a request may have."""
        most = self._settings.max_body_bytes
        return most is not None and body_bytes > most

    def received(self, data: bytes, *, ended: bool) -> None:
        """More of the body, perhaps its end."""
        self.body_bytes += len(data)
        self.ended = ended
        if self.state is _HOLDING:
            self._held.append(data)
            if self.body_bytes > MOST_HELD_BYTES and not ended:
                self._source.pause_reading()
        elif self.state is _COLLECTING:
            self._collected(data)
        elif self.state in (_FLOWING, _PAUSED):
            if self.too_large:
                self._owner.give_up(Failure.BODY_TOO_LARGE)
                return
            if self.state is _FLOWING:
                self._clock.received(len(data))
            self._send(data)

    @property
    def sent(self) -> bool:
        """Whether all of it is on its way."""
        return self.state is _SENT or self.state is _SENT_WHOLE

    def may_fit(self, announced: BodyLength) -> bool:
        """Whether the body may be whole before it is sent; `announced` by the client."""
        known_bytes = announced if isinstance(announced, int) else self.body_bytes
        return not self.ended and known_bytes <= self.share.most_bytes > 0

    def collect(self, owner: UploadOwner) -> None:
        """Receive the body until it is whole or does not fit; `owner.body_collected` is called then."""
        self._owner = owner
        self.state = _COLLECTING
        self._start_clock()
        self._source.resume_reading()
        if not self.share.borrow(self.body_bytes):
            self._end_collecting()

    def _collected(self, data: bytes) -> None:
        if self.too_large:
            self._owner.give_up(Failure.BODY_TOO_LARGE)
            return
        self._held.append(data)
        if not self.share.borrow(len(data)) or self.ended:
            self._end_collecting()
        else:
            self._clock.received(len(data))

    def _end_collecting(self) -> None:
        self._clock.close()
        self.state = _HOLDING
        if not self.ended:
            self._source.pause_reading()  # until there is a connection
        self._owner.body_collected()

    def framing(self, announced: BodyLength) -> tuple[bytes, bytes]:
        """The framing line of the request, and the whole body where it has ended already; `announced` by the client."""
        if self.ended:
            self.state = _SENT_WHOLE
            body = self._take_held()
            if self._chunked and self.body_bytes > self.share.most_bytes > 0:
                return CHUNKED_LINE, (chunk(body) if body else b"") + LAST_CHUNK
            return b"Content-Length: %d\r\n" % len(body), body
        return (b"Content-Length: %d\r\n" % announced if isinstance(announced, int) else CHUNKED_LINE), b""

    def start(self, owner: UploadOwner, connection: UploadSink, timeout_s: float) -> None:
        """Send what has come, and the rest as it comes; `timeout_s` bounds the wait for the answer's head behind it."""
        self._owner, self._connection, self._timeout_s = owner, connection, timeout_s
        self._start_clock()
        self.state = _FLOWING
        self._source.resume_reading()
        self._send(self._take_held())
        self.share.release()

    def pause(self) -> None:
        """The application takes no more for now."""
        if self.state is _FLOWING:
            self._clock.suspend()
            self.state = _PAUSED
            self._source.pause_reading()

    def resume(self) -> None:
        """The application takes more."""
        if self.state is _PAUSED:
            self.state = _FLOWING
            self._source.resume_reading()
            self._clock.wait()

    def stop(self, state: UploadState = UploadState.STOPPED) -> None:
        """Send no more."""
        if self.state in (_COLLECTING, _FLOWING, _PAUSED):
            self._clock.close()
        self.state = state
        self._held.clear()

    def _start_clock(self) -> None:
        allowance = BodyAllowance(self._settings.body_timeout_s, self._settings.min_body_bytes_per_s)
        self._clock = BodyClock(allowance, self._timed_out)
        self._clock.wait()

    def _take_held(self) -> bytes:
        body = b"".join(self._held)
        self._held.clear()
        return body

    def _send(self, data: bytes) -> None:
        connection, chunked = self._connection, self._chunked
        if data:
            connection.write(chunk(data) if chunked else data)
        if self.ended:
            if chunked:
                connection.write(LAST_CHUNK)
            self.stop(_SENT)
            connection.expect_answer(self._timeout_s)

    def _timed_out(self) -> None:
        self._owner.give_up(Failure.BODY_TIMEOUT)
