"""The facts of a request that decisions use, and the readings of its path."""

import re
from binascii import a2b_qp
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol


class BadRequest(Exception):
    """The request is ambiguous in a part that a limit depends on; it is answered 400. The text gives the reason."""


class Fields(Protocol):
    """Header fields by name in any case, each with all its values in the order received."""

    def getall(self, name: str, default: Sequence[str]) -> Sequence[str]: ...


class RequestFacts(NamedTuple):
    """One request as received: `target` is the raw request target, `peer` the address of the connection's other end.

    Field values are str as decoded from UTF-8 with surrogate escapes, so that the original bytes can be restored.
    """

    method: str
    target: str
    fields: Fields
    peer: str


# Bounds the cache of paths: entries, and characters of each; longer targets are read anew each time.
CACHED_TARGETS = 4096
CACHED_TARGET_CHARS = 512

# Bounds the work of one path: segments, with those behind encoded slashes, and `;parameters`.
MOST_SEGMENTS = 1000

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
# After one decoding.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_PARENT_SEGMENT = re.compile(r"/\.\.(?:[/;]|$)")
_SLASHES = re.compile(r"/{2,}")
_PARAMETERS = re.compile(r";[^/]*")
_DOT_SEGMENTS = re.compile(r"(?:/\.(?=/|$))+")
# Stands for an encoded slash that is read as itself (private use).
_KEPT_SLASH = "\ue02f"
_ESCAPED_KEPT_SLASH = "%EE%80%AF"


def paths_of(target: str) -> tuple[str, ...]:
    """All readings of a request target's path by common applications, without duplicates.

    Every reading is percent-decoded once, with slashes merged and without a trailing one. The readings differ in `%2F`
    (a slash, or itself), in `;parameters` of segments (removed, or kept) and in segments `.` (removed, or kept). The
    first one decodes and removes most: keys are read from it. Raises BadRequest where applications disagree: a segment
    `..` in any spelling, an escape within an escape, a control character, a backslash, a broken escape; and for more
    than MOST_SEGMENTS segments.
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
    """Text percent-decoded once (RFC 3986 §2.1). A broken escape stays as it is. In C, whatever the text holds."""
    if "%" not in text:
        return text
    return _decode_valid(_BROKEN_ESCAPE.sub("%25", text))


def _decode_valid(text: str) -> str:
    # Quoted-printable is the same encoding with another sign.
    raw = text.encode("utf-8", "surrogateescape").replace(b"=", b"=3D").replace(b"%", b"=")
    return a2b_qp(raw).decode("utf-8", "surrogateescape")


def _paths(path: str) -> tuple[str, ...]:
    if not path.startswith("/"):
        return (path,)
    kept = path.replace("%2F", _ESCAPED_KEPT_SLASH).replace("%2f", _ESCAPED_KEPT_SLASH)
    if kept.count("/") + kept.count(";") + kept.count(_ESCAPED_KEPT_SLASH) > MOST_SEGMENTS:
        raise BadRequest(f"the path has more than {MOST_SEGMENTS} segments")
    if _BROKEN_ESCAPE.search(path):
        raise BadRequest("the path holds a broken percent-escape")
    decoded = _decode_valid(path)
    if ambiguity := _ambiguity(decoded):
        raise BadRequest(f"the path can be read in more than one way: it holds {ambiguity}")
    readings = [decoded]
    if kept != path:
        readings.append(_decode_valid(kept))
    if ";" in decoded:
        readings = [_PARAMETERS.sub("", each) for each in readings] + readings
    readings = [_SLASHES.sub("/", each) for each in readings]
    if any("/." in each for each in readings):
        readings = [_DOT_SEGMENTS.sub("", each) or "/" for each in readings] + readings
    return tuple(dict.fromkeys((each.rstrip("/") or "/").replace(_KEPT_SLASH, "%2F") for each in readings))


_cached_paths = lru_cache(CACHED_TARGETS)(_paths)


def _ambiguity(decoded: str) -> str:
    """The part of a decoded path that applications read differently; empty where there is none."""
    if _CONTROL.search(decoded):
        return "a control character"
    if "\\" in decoded:
        return "a backslash"
    if "%" in decoded and _ESCAPE.search(decoded):
        return "an escape within an escape"
    if ".." in decoded and _PARENT_SEGMENT.search(decoded):
        return "the segment .."
    return ""
