"""Max-Forwards: how many more intermediaries a TRACE or OPTIONS may pass (RFC 9110 §7.6.2)."""

from collections.abc import Iterable

from sidegate.decision.identity import SECRET_FIELDS
from sidegate.edge.headers import VIA, Fields, status_line
from sidegate.edge.wire import RequestMessage

# Nothing passes more intermediaries than these digits can tell; longer numbers are cut, not computed.
MOST_DIGITS = 9
COUNTED_METHODS = frozenset({"TRACE", "OPTIONS"})

# Not shown again (RFC 9110 §9.3.8): a page that may not read these of its own request must not read them here.
_SECRET = frozenset(name.encode() for name in SECRET_FIELDS) | {b"proxy-authorization"}


def hops_are_doubtful(message: RequestMessage) -> bool:
    """Whether a request that is counted says how many in a way that is no number, or in more than one."""
    values = message.headers.getall("Max-Forwards", ())
    return bool(values) and not (len(values) == 1 and values[0].isascii() and values[0].isdigit())


def hops_left(message: RequestMessage) -> int | None:
    """How many more a counted request may pass; None where it may pass any number."""
    value = message.headers.get("Max-Forwards")
    return None if value is None else int(value.lstrip("0")[:MOST_DIGITS] or "0")


def one_hop_less(fields: Fields, hops: int) -> Iterable[tuple[bytes, bytes]]:
    """The fields of a request that had so many hops left, for the next one."""
    return [(name, b"%d" % (hops - 1) if name.lower() == b"max-forwards" else value) for name, value in fields]


def last_hop_answer(message: RequestMessage, rate_limit_lines: bytes, connection: bytes) -> bytes:
    """The answer to a counted request that goes no further: what has arrived here, to TRACE; nothing, to OPTIONS."""
    body, content_type = b"", b""
    if message.method == "TRACE":
        content_type = b"Content-Type: message/http\r\n"
        target = message.path.encode("utf-8", "surrogateescape")
        fields = [b"%b: %b\r\n" % field for field in message.raw_headers if field[0].lower() not in _SECRET]
        body = b"TRACE %b HTTP/1.%d\r\n%b\r\n" % (target, message.version.minor, b"".join(fields))
    lines = b"%bContent-Length: %d\r\nCache-Control: no-store\r\n" % (content_type, len(body))
    return b"".join((status_line(200, "OK"), lines, rate_limit_lines, connection, VIA, b"\r\n", body))
