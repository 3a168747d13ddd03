"""The facts of a request that decisions use, and the readings of its path."""

import re
from binascii import a2b_qp
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from sidegate.decision.bad_request import BadRequest


class Fields(Protocol):
    """Header fields by name in any case, each with all its values in the order received."""

    def getall(self, name: str, default: Sequence[str]) -> Sequence[str]: ...


class RequestFacts(NamedTuple):
    """One request as received: `target` is the raw request target, `peer` the address of the connection's other end.

    `client_cert` is the name in the verified certificate of that end; empty without one.
    Field values are str as decoded from UTF-8 with surrogate escapes, so that the original bytes can be restored.
    """

    method: str
    target: str
    fields: Fields
    peer: str
    client_cert: str = ""


# Bounds the cache of paths: entries, and characters of each; longer targets are read anew each time.
CACHED_TARGETS = 4096
CACHED_TARGET_CHARS = 512

# Bounds the work of one path: segments, with those behind encoded slashes, and `;parameters`.
MOST_SEGMENTS = 1000
MOST_BROKEN_ESCAPES = 100

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
# After one decoding.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_PARENT_SEGMENT = re.compile(r"/\.\.(?:[/;]|$)")
_SLASHES = re.compile(r"/{2,}")
_PARAMETERS = re.compile(r";[^/]*")
# Bytes that were not valid UTF-8, as surrogate escapes.
_NOT_UTF8 = re.compile(r"[\udc80-\udcff]+")
# Stands for an encoded slash that is read as itself (private use).
_KEPT_SLASH = "\ue02f"
_ESCAPED_KEPT_SLASH = "%EE%80%AF"


def paths_of(target: str) -> tuple[str, ...]:
    """All readings of a request target's path by common applications, without duplicates.

    Every reading is percent-decoded once, with slashes merged and without a trailing one. The readings differ in `%2F`
    (a slash, or itself), in bytes that are not UTF-8 (removed, or kept), in `;parameters` of segments (removed, or
    kept) and in segments `.` (removed, or kept). The first one decodes and removes most: keys are read from it. Raises
    BadRequest where applications disagree: a segment `..` in any spelling, an escape within an escape, a control
    character, a backslash, a broken escape; and for more than MOST_SEGMENTS segments.
    """
    path = path_part(target)
    return _cached_paths(path) if len(path) <= CACHED_TARGET_CHARS else _paths(path)


def path_part(target: str) -> str:
    """The target's path as sent: without scheme, authority, query and fragment."""
    if target.startswith("/") and "?" not in target and "#" not in target:
        return target
    if not target.startswith("/"):
        absolute = _ABSOLUTE.match(target)
        if absolute is None:
            return target
        target = target[absolute.end() :]
    return target.partition("?")[0].partition("#")[0] or "/"


def query_part(target: str) -> str:
    """The target's query as sent, without the question mark; empty where there is none."""
    return target.partition("#")[0].partition("?")[2]


def authority_of(target: str) -> str:
    """The authority of an absolute-form target; empty for any other form."""
    absolute = None if target.startswith("/") else _ABSOLUTE.match(target)
    return absolute[1] if absolute else ""


def decode(text: str) -> str:
    """Text percent-decoded once (RFC 3986 §2.1). A broken escape stays as it is.

    Raises BadRequest for more than MOST_BROKEN_ESCAPES of them, which bounds the work.
    """
    if "%" not in text:
        return text
    decoded = _decode_valid(text)
    if decoded is not None:
        return decoded
    text, broken = _BROKEN_ESCAPE.subn("%25", text, MOST_BROKEN_ESCAPES + 1)
    if broken > MOST_BROKEN_ESCAPES:
        raise BadRequest(f"a value that decides a limit has more than {MOST_BROKEN_ESCAPES} broken percent-escapes")
    return _unquote(text)[0]


def _decode_valid(text: str) -> str | None:
    """Text percent-decoded once; None where an escape is broken."""
    decoded, complete = _unquote(text)
    return decoded if complete else None


def _unquote(text: str) -> tuple[str, bool]:
    """Text percent-decoded in C, and whether every escape was valid: only then has each given up two characters.

    Quoted-printable is the same encoding with another sign. It reads `=` before a line end as a soft break, which
    no text of a request has.
    """
    raw = text.encode("utf-8", "surrogateescape").replace(b"=", b"=3D").replace(b"%", b"=")
    decoded = a2b_qp(raw)
    complete = len(raw) - len(decoded) == 2 * raw.count(b"=") and b"\n" not in raw and b"\r" not in raw
    return decoded.decode("utf-8", "surrogateescape"), complete


def _paths(path: str) -> tuple[str, ...]:
    if not path.startswith("/"):
        return (path,)
    kept = path.replace("%2F", _ESCAPED_KEPT_SLASH).replace("%2f", _ESCAPED_KEPT_SLASH)
    if kept.count("/") + kept.count(";") + kept.count(_ESCAPED_KEPT_SLASH) > MOST_SEGMENTS:
        raise BadRequest(f"the path has more than {MOST_SEGMENTS} segments")
    decoded = _decode_valid(path) if "%" in path else path
    if decoded is None:
        raise BadRequest("the path holds a broken percent-escape")
    readings = [decoded]
    if kept != path:
        readings.append(decode(kept))
    if not decoded.isprintable() and _NOT_UTF8.search(decoded):  # Bottle drops these bytes
        readings = [_NOT_UTF8.sub("", each) for each in readings] + readings
    for reading in readings:
        if ambiguity := _ambiguity(reading):
            raise BadRequest(f"the path can be read in more than one way: it holds {ambiguity}")
    if ";" in decoded:
        readings = [_PARAMETERS.sub("", each) for each in readings] + readings
    readings = [_SLASHES.sub("/", each) if "//" in each else each for each in readings]
    if any("/." in each for each in readings):
        readings = [*map(_without_dots, readings), *readings]
    return tuple(dict.fromkeys((each.rstrip("/") or "/").replace(_KEPT_SLASH, "%2F") for each in readings))


def _without_dots(path: str) -> str:
    while "/./" in path:  # each pass halves a row of them
        path = path.replace("/./", "/")
    return path.removesuffix("/.")


_cached_paths = lru_cache(CACHED_TARGETS)(_paths)


def _ambiguity(decoded: str) -> str:
    """The part of a decoded path that applications read differently; empty where there is none."""
    if not decoded.isprintable() and _CONTROL.search(decoded):
        return "a control character"
    if "\\" in decoded:
        return "a backslash"
    if "%" in decoded and _ESCAPE.search(decoded):
        return "an escape within an escape"
    if ".." in decoded and _PARENT_SEGMENT.search(decoded):
        return "the segment .."
    return ""
