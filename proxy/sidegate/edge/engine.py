"""The general lane: reads any message head with llhttp, through aiohttp, under names of ours.

This is the one module that imports aiohttp. Its parser's names may move between minor versions, so the range of
versions is pinned and tests/edge/test_engine.py holds each behaviour that is relied on.

Only heads are fed to the parser: the readers find where a head ends, frame bodies themselves (edge/body_framing), and
take a new parser for each message. So nothing of one message can reach another, and no parser holds a body. llhttp must
agree on where the head ends: it may neither finish before the last byte nor want more.
"""

from typing import Any, NamedTuple

from aiohttp.http import HttpRequestParser, HttpResponseParser
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

MOST_FIELDS = 128
# An application may send more and longer fields than a client, but not without bound.
MOST_RESPONSE_FIELDS = 256
LONGEST_RESPONSE_FIELD_BYTES = 64 * 1024


class ParsedRequest(NamedTuple):
    """A request head as llhttp read it: names and values without white space at their ends."""

    method: str
    target: str
    fields: tuple[tuple[bytes, bytes], ...]


class ParsedResponse(NamedTuple):
    """An answer's head as llhttp read it; a folded value is one line."""

    status: int
    reason: str
    fields: tuple[tuple[bytes, bytes], ...]


class EngineError(Exception):
    """llhttp refused the head. `too_long`: a line or field exceeds the limit; otherwise bytes are invalid."""

    def __init__(self, text: str, *, too_long: bool = False) -> None:
        super().__init__(text)
        self.too_long = too_long


class _NoFlow:
    """Replaces aiohttp's protocol, whose flow control concerns bodies: no parser here gets one."""

    _reading_paused = False
    transport = None

    def pause_reading(self, *_: Any, **__: Any) -> None:
        """Nothing is read."""

    def resume_reading(self, *_: Any, **__: Any) -> None:
        """Nothing is read."""


_NO_FLOW: Any = _NoFlow()
_NO_LOOP: Any = object()  # asked for only by bodies that are waited for


class HeadEngine:
    """Reads one head, in pieces. Each message needs a new engine."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser

    def feed(self, piece: bytes) -> None:
        """Take more of the head, but not its last byte. Raises EngineError where it is invalid already."""
        if self._messages(piece):
            raise EngineError("the head ends before its empty line")

    def finish(self, last: bytes) -> Any:
        """Take the last piece of the head; returns aiohttp's message. Raises EngineError."""
        if len(last) > 1:
            self.feed(last[:-1])
        messages = self._messages(last[-1:])
        if len(messages) != 1:
            raise EngineError("the head does not end at its empty line")
        return messages[0][0]

    def _messages(self, data: bytes) -> Any:
        try:
            return self._parser.feed_data(data)[0]
        except LineTooLong as error:
            raise EngineError(_first_line(error), too_long=True) from error
        except (HttpProcessingError, ValueError) as error:  # ValueError: a target that is no URL to yarl
            raise EngineError(_first_line(error)) from error


class RequestEngine(HeadEngine):
    """Reads one request's head."""

    def __init__(self, longest_head_bytes: int) -> None:
        super().__init__(
            HttpRequestParser(
                _NO_FLOW,
                _NO_LOOP,
                LONGEST_RESPONSE_FIELD_BYTES,
                max_line_size=longest_head_bytes,
                max_headers=MOST_FIELDS,
                max_field_size=longest_head_bytes,
                auto_decompress=False,
                max_msg_queue_size=1,
            )
        )

    def parse(self, last: bytes) -> ParsedRequest:
        """The head, whose last piece this is. Raises EngineError."""
        message = self.finish(last)
        return ParsedRequest(message.method, message.path, message.raw_headers)


class ResponseEngine(HeadEngine):
    """Reads one answer's head."""

    def __init__(self) -> None:
        super().__init__(
            HttpResponseParser(
                _NO_FLOW,
                _NO_LOOP,
                LONGEST_RESPONSE_FIELD_BYTES,
                max_line_size=LONGEST_RESPONSE_FIELD_BYTES,
                max_headers=MOST_RESPONSE_FIELDS,
                max_field_size=LONGEST_RESPONSE_FIELD_BYTES,
                response_with_body=True,
                read_until_eof=True,
                auto_decompress=False,
            )
        )

    def parse(self, last: bytes) -> ParsedResponse:
        """The head, whose last piece this is. Raises EngineError."""
        message = self.finish(last)
        return ParsedResponse(message.code, message.reason, message.raw_headers)


def ensure_compiled() -> None:
    """Refuse to run on aiohttp's pure-Python parser, which has a history of request-smuggling faults."""
    if HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise RuntimeError(
            "aiohttp runs without its compiled HTTP parser (AIOHTTP_NO_EXTENSIONS set, or a wheel without extensions); "
            "Sidegate refuses to parse requests with the fallback"
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
