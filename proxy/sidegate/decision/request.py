"""What the decision may know of a request, and the canonical paths that matching sees."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol
from urllib.parse import unquote_to_bytes


class BadRequest(Exception):
    """The request is ambiguous where a limit depends on it; it is answered 400. The text says why."""


class Fields(Protocol):
    """Header fields by name in any case, each with all its values in the order received."""

    def getall(self, name: str, default: Sequence[str]) -> Sequence[str]: ...


class RequestFacts(NamedTuple):
    """One request as received: `target` is the raw request target, `peer` the address of the connection's other end.

    Field values are str as decoded from UTF-8 with surrogate escapes, so that the original bytes can be had again.
    """

    method: str
    target: str
    fields: Fields
    peer: str


# What the paths cache may cost: as many entries of at most as many characters; longer targets are computed each time.
CACHED_TARGETS = 4096
CACHED_TARGET_CHARS = 512

_CONTROL = re.compile(r"[\x01-\x1f\x7f]")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SLASHES = re.compile(r"/{2,}")
_ENCODED_SLASH = re.compile(r"%2f", re.IGNORECASE)
_DOUBTFUL = re.compile(r"%2[ef]|[\x00\\]", re.IGNORECASE)
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")


def paths_of(target: str) -> tuple[str, ...]:
    """The canonical path of a request target, in one reading or, where it holds `%2F`, in two.

    The path of an absolute-form target, without query and fragment, percent-decoded once, `%2F` read as a slash and as
    itself, control characters dropped, slashes merged, dot segments removed (RFC 3986 §5.2.4), one trailing slash
    ignored. Raises BadRequest for what stays doubtful after one decoding. Up to the first `%2F` both readings agree.
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


def _paths(path: str) -> tuple[str, ...]:
    if "%" not in path:
        return (_canonical(path),)
    if _ESCAPE.search(path):
        raise BadRequest("the path holds a broken percent-escape")
    decoded = unquote_to_bytes(path.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
    as_slash = _canonical(decoded)
    if not _ENCODED_SLASH.search(path):
        return (as_slash,)
    if ".." in _CONTROL.sub("", decoded).split("/"):
        # What `..` takes away is another segment in each reading. A policy would match by one and its key be read by
        # the other, of which the client has as many as it likes: `/api/..%2F1`, `/api/..%2F2` …
        raise BadRequest("the path can be read in more than one way: it holds both an encoded slash and ..")
    return (as_slash, _as_itself(path))


_cached_paths = lru_cache(CACHED_TARGETS)(_paths)


def _as_itself(path: str) -> str:
    """The canonical path with each `%2F` kept as three characters of its segment."""
    decoded = (
        unquote_to_bytes(part.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
        for part in _ENCODED_SLASH.split(path)
    )
    # A private-use character stands for the kept escape while dots and slashes are worked out.
    return _canonical("\ue02f".join(decoded)).replace("\ue02f", "%2F")


def _canonical(decoded: str) -> str:
    if _DOUBTFUL.search(decoded):
        raise BadRequest("the path can be read in more than one way: NUL, backslash, or an escape within an escape")
    if not decoded.startswith("/"):
        return decoded
    path = _SLASHES.sub("/", _CONTROL.sub("", decoded))
    if "/." in path:
        path = _without_dots(path)
    return path.rstrip("/") or "/"


def _without_dots(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            if not kept:
                raise BadRequest("the path climbs above the root")
            kept.pop()
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept)
