"""Max-Forwards: how many more intermediaries a TRACE or OPTIONS may pass (RFC 9110 §7.6.2)."""

from sidegate.decision.identity import SECRET_FIELDS
from sidegate.edge.heads import RequestHead
from sidegate.edge.http_date import date_line
from sidegate.edge.rewrite import status_line

# Nothing passes more intermediaries than these digits can count; longer numbers are cut, not computed.
MOST_DIGITS = 9
COUNTED_METHODS = frozenset({"TRACE", "OPTIONS"})

# Not shown again (RFC 9110 §9.3.8): a page that may not read these of its own request must not read them here.
_SECRET = frozenset(name.encode() for name in SECRET_FIELDS) | {b"proxy-authorization"}


def hops_left(head: RequestHead) -> int | None:
    """How many more a request may pass; None where that is not counted, or any number."""
    values = head.special.get("max-forwards") if head.method in COUNTED_METHODS else None
    return int(values[0].lstrip(b"0")[:MOST_DIGITS] or b"0") if values else None


def take_hop(head: RequestHead, hops: int) -> None:
    """Count this sidecar as one of the `hops` that were left."""
    for position, line in enumerate(head.lines):
        if line.lower().startswith(b"max-forwards:"):
            head.lines[position] = b"%b: %d" % (line.partition(b":")[0], hops - 1)


def last_hop_answer(head: RequestHead, rate_limit_lines: bytes, last_lines: bytes) -> bytes:
    """The answer to a counted request that goes no further: what has arrived here, to TRACE; nothing, to OPTIONS."""
    body, content_type = b"", b""
    if head.method == "TRACE":
        content_type = b"Content-Type: message/http\r\n"
        target = head.target.encode("utf-8", "surrogateescape")
        fields = [line + b"\r\n" for line in head.raw if line.partition(b":")[0].lower() not in _SECRET]
        body = b"TRACE %b HTTP/1.%d\r\n%b\r\n" % (target, head.traits.minor, b"".join(fields))
    lines = b"\r\n%bContent-Length: %d\r\nCache-Control: no-store\r\n" % (content_type, len(body))
    return b"".join((status_line(200, "OK"), lines, rate_limit_lines, date_line(), last_lines, b"\r\n", body))
