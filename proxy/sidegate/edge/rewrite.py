"""Writes forwarded heads: hop-by-hop fields removed, our own added, all others unchanged.

RFC 9110 §7.6.1 (Connection), §7.6.3 (Via), §6.6.1 (Date); RFC 7239 (Forwarded); RFC 9112 §3.2.2 (absolute-form), §6
(framing). The lines of a head hold what is sent on already (edge/heads); here they are joined with ours. Pure
functions, but for the clock of a Date that an application left out.
"""

import re
from functools import lru_cache
from http import HTTPStatus

from sidegate.edge.field_names import CLAIM
from sidegate.edge.forwarded import continued, first_element
from sidegate.edge.heads import RequestHead, ResponseHead
from sidegate.edge.http_date import date_line

VIA = b"Via: 1.1 sidegate\r\n"
LONGEST_REASON_CHARS = 128

_ABSOLUTE = re.compile(r"https?://(?:[^/?#@]*@)?([^/?#]*)", re.IGNORECASE)


def request_head(
    head: RequestHead,
    authority: bytes,
    peer: bytes,
    last_lines: bytes,
    *,
    trusted: bool,
    via: bytes = VIA,
    scheme: bytes = b"http",
) -> bytes:
    """The head of the request to the application.

    `authority` stands for a missing Host, `peer` is the address of the client's connection; `last_lines` are whole
    lines of ours, with the framing. X-Forwarded-* and Forwarded of a trusted peer are continued, those of any other
    replaced. `via` is the line of that field, or empty; `scheme` that of the client's connection.
    """
    special = head.special
    host = (special["host"][0] if "host" in special else b"") or authority
    if trusted:
        return _continued_head(head, host, peer, scheme, via + last_lines)
    return (
        b"%b\r\nHost: %b\r\nX-Forwarded-For: %b\r\nX-Forwarded-Host: %b\r\nX-Forwarded-Proto: %b\r\n"
        b"Forwarded: %b\r\n%b%b\r\n"
    ) % (b"\r\n".join(head.lines), host, peer, host, scheme, first_element(peer, host, scheme), via, last_lines)


def _continued_head(head: RequestHead, host: bytes, peer: bytes, scheme: bytes, last_lines: bytes) -> bytes:
    special = head.special
    forwarded_for, forwarded_host, forwarded_proto = peer, host, scheme
    if "x-forwarded-for" in special:
        # A peer on a Unix socket has no address that could be appended.
        own = [] if peer == b"unix" else [peer]
        forwarded_for = b", ".join([*special["x-forwarded-for"], *own])
    if "x-forwarded-host" in special:
        forwarded_host = special["x-forwarded-host"][-1] or host
    if "x-forwarded-proto" in special:
        forwarded_proto = special["x-forwarded-proto"][-1] or scheme
    return (
        b"%b\r\nHost: %b\r\nX-Forwarded-For: %b\r\nX-Forwarded-Host: %b\r\nX-Forwarded-Proto: %b\r\n"
        b"Forwarded: %b\r\n%b%b\r\n"
    ) % (
        b"\r\n".join(head.lines),
        host,
        forwarded_for,
        forwarded_host,
        forwarded_proto,
        continued(special, peer, forwarded_host, forwarded_proto),
        _claim_lines(head) if CLAIM.name in special else b"",
        last_lines,
    )


def _claim_lines(head: RequestHead) -> bytes:
    """The lines of a trusted proxy that the plain rules would drop (field_names.CLAIMS)."""
    fields = [line.partition(b":") for line in head.raw]
    kept = [b"%b: %b\r\n" % (name, value.strip(b" \t")) for name, _, value in fields if head.names[name] is CLAIM]
    return b"".join(kept)


def response_head(head: ResponseHead, ours: bytes, via: bytes = VIA) -> bytes:
    """The head of the answer to the client. `ours` are whole lines of ours, with the framing; `via` as above."""
    date = b"" if head.dated or head.status < 200 else date_line()
    return b"%b\r\n%b%b%b\r\n" % (b"\r\n".join(head.lines), date, ours, via)


def origin_form(target: str) -> tuple[str, bytes]:
    """The target as an origin server takes it, without fragment; and the authority of an absolute-form one, else b"".

    The application gets the bytes that came, so a path is never decoded here.
    """
    if target.startswith("/"):
        return (target.partition("#")[0] if "#" in target else target), b""
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        return target, b""
    rest = target[absolute.end() :].partition("#")[0]
    return (rest if rest.startswith("/") else f"/{rest}"), absolute[1].encode("utf-8", "surrogateescape")


def names_host(target: str, host: str | None) -> bool:
    """Whether a target that is no path is `*`, or an absolute one of the very host that the Host field names.

    RFC 9112 §3.2.2 lets the target win; a limit that looks at Host would then be another application's.
    """
    absolute = _ABSOLUTE.match(target)
    if absolute is None or host is None:
        return target == "*"
    return absolute[0].endswith(f"//{absolute[1]}") and absolute[1].lower() == host.lower()


def status_line(status: int, reason: str) -> bytes:
    """A status line without its line end; the reason is kept where it is plain text, up to LONGEST_REASON_CHARS."""
    return _status_line(status, reason[:LONGEST_REASON_CHARS])


@lru_cache(256)
def _status_line(status: int, reason: str) -> bytes:
    if not (reason.isascii() and reason.isprintable()):
        reason = HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else ""
    return f"HTTP/1.1 {status} {reason}".encode()
