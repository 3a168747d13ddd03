"""aiohttp's HTTP/1.1 engine under names of ours: the one module that knows where they live.

The engine is llhttp in C with aiohttp's flow control and body streams. Its names may move between aiohttp's minor
versions, so the version range is pinned and tests/edge/test_wire.py holds each behaviour we rely on. Two of them need
care:

* A chunked message that ends in a trailer leaves that trailer's last field in the parser, which gives it to the *next*
  message. `ends_clean` tells whether a chunked message ended without one and with nothing behind it; a connection on
  which it did not is not used again, in either direction.
* The response parser is lenient by design (folded lines, bare LF); what it returns is clean, since we write every field
  anew, but its idea of where a message ended may differ from the sender's. Upstream connections are therefore pooled
  only after a message whose end was counted to the byte (see edge/upstream).
"""

import asyncio

from aiohttp.base_protocol import BaseProtocol as _BaseProtocol
from aiohttp.http import HttpRequestParser, HttpResponseParser, RawRequestMessage, RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from multidict import CIMultiDict, CIMultiDictProxy, istr

__all__ = [
    "BROKEN_BODY",
    "CONNECTION",
    "CONTENT_LENGTH",
    "EMPTY_BODY",
    "EXPECT",
    "HOST",
    "NO_FIELDS",
    "TRANSFER_ENCODING",
    "BaseProtocol",
    "Body",
    "HttpProcessingError",
    "LineTooLong",
    "RequestMessage",
    "RequestParser",
    "ResponseMessage",
    "ResponseParser",
    "ends_clean",
    "ensure_compiled",
    "request_parser",
    "response_parser",
]

RequestMessage = RawRequestMessage
ResponseMessage = RawResponseMessage
RequestParser = HttpRequestParser
ResponseParser = HttpResponseParser
Body = StreamReader
EMPTY_BODY = EMPTY_PAYLOAD
# Names that are looked up for every message: as they are folded already, that takes 20 ns instead of 50.
CONNECTION, CONTENT_LENGTH, EXPECT, HOST = istr("Connection"), istr("Content-Length"), istr("Expect"), istr("Host")
TRANSFER_ENCODING = istr("Transfer-Encoding")
NO_FIELDS: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())

# What a body stream raises where the other side broke off or broke the framing.
BROKEN_BODY = (HttpProcessingError, ConnectionError)

# A body waiting to be passed on fills at most twice this much memory before reading stops.
BODY_BUFFER_BYTES = 64 * 1024
MOST_FIELDS = 128
# An upstream is trusted more than a client, but not with our memory.
LARGEST_RESPONSE_FIELD_BYTES = 64 * 1024

_LAST_CHUNK = b"\r\n0\r\n\r\n"


class BaseProtocol(_BaseProtocol):
    """aiohttp's flow control. Every finished body resumes reading; here that costs nothing where it was not paused."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """See aiohttp."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)


def ensure_compiled() -> None:
    """Refuse to run on aiohttp's pure-Python parser, which has a history of request-smuggling faults."""
    if HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise RuntimeError(
            "aiohttp runs without its compiled HTTP parser (AIOHTTP_NO_EXTENSIONS set, or a wheel without extensions); "
            "Sidegate refuses to parse requests with the fallback"
        )


def request_parser(protocol: BaseProtocol, loop: asyncio.AbstractEventLoop, largest_head_bytes: int) -> RequestParser:
    """A strict parser that stops after each message, until it is fed again."""
    return HttpRequestParser(
        protocol,
        loop,
        BODY_BUFFER_BYTES,
        max_line_size=largest_head_bytes,
        max_headers=MOST_FIELDS,
        max_field_size=largest_head_bytes,
        auto_decompress=False,
        max_msg_queue_size=1,
    )


def response_parser(
    protocol: BaseProtocol, loop: asyncio.AbstractEventLoop, *, bodyless: bool = False
) -> ResponseParser:
    """A parser of responses; `bodyless` for those to HEAD, whose framing fields announce a body that does not come."""
    return HttpResponseParser(
        protocol,
        loop,
        BODY_BUFFER_BYTES,
        max_line_size=LARGEST_RESPONSE_FIELD_BYTES,
        max_headers=MOST_FIELDS * 2,
        max_field_size=LARGEST_RESPONSE_FIELD_BYTES,
        response_with_body=not bodyless,
        read_until_eof=True,
        auto_decompress=False,
    )


def ends_clean(last_bytes: bytes) -> bool:
    """Whether a chunked message whose last received bytes these are ended without trailers and with nothing behind."""
    return last_bytes.endswith(_LAST_CHUNK)
