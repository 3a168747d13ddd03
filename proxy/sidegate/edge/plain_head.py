"""The plain lane: reads heads of a small, strict grammar in few calls. Everything else takes the general lane.

The grammar is a subset of what llhttp takes, and both lanes return the same for it; tests/edge/test_plain_head.py holds
that in both directions. A plain head

* is one segment, ends each line with CRLF, and holds no other control character but a tab within a value;
* begins with `METHOD SP /path SP HTTP/1.1`, or `HTTP/1.1 SP status SP reason`;
* writes each field as `name: value`, with a space;
* has no field that frames a body or concerns one hop, but for `Connection: keep-alive` and, in an answer, one
  Content-Length;
* is a request with one Host and no body, or an answer whose whole body is in the same segment.
"""

import re

from sidegate.edge.field_names import NOT_A_NAME, FieldNames
from sidegate.edge.heads import RequestHead, ResponseHead

# Longer heads, or more fields, are left to the general lane and its bounds.
LONGEST_HEAD_BYTES = 8192
MOST_LINES = 100
# No body is longer than 10**15 bytes; int() refuses more than 4,300 digits.
MOST_LENGTH_DIGITS = 15

_TEXT = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
# No fragment: an origin server never gets one (RFC 9112 §3.2.1).
_REQUEST_LINE = re.compile(rb"([A-Z]+) (/[!\"$-~]*) HTTP/1\.1")
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) [ -~]+")
_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_KEEP_ALIVE = frozenset({b"Connection: keep-alive", b"connection: keep-alive", b"Connection: Keep-Alive"})
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
# Without a body of their own: the general lane knows what their lengths mean.
_BODYLESS = frozenset({b"204", b"205", b"304"})


class _ValidHosts(dict[bytes, bool]):
    """Whether a Host value is valid; bounded in entries and bytes, since clients choose the values."""

    def __missing__(self, host: bytes) -> bool:
        valid = _HOST.fullmatch(host) is not None
        if len(host) <= 255:
            if len(self) >= 1024:
                self.clear()
            self[host] = valid
        return valid


valid_hosts = _ValidHosts()


def plain_request(data: bytes, names: FieldNames) -> RequestHead | None:
    """The one request head that the segment is, if it is plain."""
    lines = _lines_of(data[:-2]) if data[-4:] == b"\r\n\r\n" and len(data) <= LONGEST_HEAD_BYTES else None
    start = _REQUEST_LINE.fullmatch(lines[0]) if lines else None
    if lines is None or start is None:
        return None
    name, target = start.groups()
    method = _METHODS.get(name)
    kept = [lines.pop(0)]
    special: dict[str, list[bytes]] = {}
    keep = kept.append
    for line in lines:
        name, colon, value = line.partition(b": ")
        role = names[name] if colon else NOT_A_NAME
        if role is None:
            keep(line)
            continue
        lowered, sent_on, plain = role
        if not plain and line not in _KEEP_ALIVE:
            return None
        if sent_on:
            keep(line)
        if lowered in special:
            special[lowered].append(value.strip(b" \t"))
        else:
            special[lowered] = [value.strip(b" \t")]
    hosts = special.get("host")
    if method is None or hosts is None or len(hosts) != 1 or not valid_hosts[hosts[0]]:
        return None
    return RequestHead(method, target.decode(), kept, special, lines, names)


def plain_response(data: bytes, names: FieldNames) -> tuple[ResponseHead, bytes] | None:
    """The head and body of the one whole answer that the segment is, if it is plain. Not for an answer to HEAD."""
    end = data.find(b"\r\n\r\n")
    lines = _lines_of(data[: end + 2]) if 0 < end <= LONGEST_HEAD_BYTES else None
    start = _STATUS_LINE.fullmatch(lines[0]) if lines else None
    if lines is None or start is None or start[1] in _BODYLESS:
        return None
    kept = [lines.pop(0)]
    lengths: list[bytes] = []
    dated, keep = False, kept.append
    for line in lines:
        name, colon, value = line.partition(b": ")
        role = names[name] if colon else NOT_A_NAME
        if role is None:
            keep(line)
        elif role.sent_on:  # Date is the only one
            dated = True
            keep(line)
        elif role.name == "content-length":
            lengths.append(value.strip(b" \t"))
        elif not role.plain and line not in _KEEP_ALIVE:
            return None
    if len(lengths) != 1 or not lengths[0].isdigit() or len(lengths[0]) > MOST_LENGTH_DIGITS:
        return None
    length = int(lengths[0])
    if end + 4 + length != len(data):
        return None
    return ResponseHead(int(start[1]), kept, length, dated=dated), data[end + 4 :]


def _lines_of(head: bytes) -> list[bytes] | None:
    """The lines of a head that ends with CRLF; None where it holds a byte that no plain head does."""
    lines = head.split(b"\r\n")
    lines.pop()
    # What is no text must be the line ends, and nothing else: one pass finds control characters, bare CR and bare LF.
    return lines if head.translate(None, _TEXT) == b"\r\n" * len(lines) and len(lines) <= MOST_LINES else None
