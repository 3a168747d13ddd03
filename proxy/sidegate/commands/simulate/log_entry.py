"""One line of an access log as the request that it tells of.

Read are Apache's common and combined formats, with or without the virtual host in front, nginx's default (`main`, which
adds X-Forwarded-For at the end), and JSON lines (log_json). What a log does not hold is absent, as from a request.
"""

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from sidegate.commands.simulate.log_time import clf_moment
from sidegate.decision.request import RequestFacts

_QUOTED = r'"([^"\\]*(?:\\.[^"\\]*)*)"'
_REST = rf" \[([^\]]{{1,60}})\] {_QUOTED} (\d{{3}}|-) (?:\d+|-)(?: {_QUOTED} {_QUOTED}(?: {_QUOTED})?)?(?: .*)?"
_COMBINED = re.compile(rf"(\S+) \S+ \S+{_REST}")
_WITH_HOST = re.compile(rf"(\S+) (\S+) \S+ \S+{_REST}")
_NAME_WITH_SPACES = re.compile(rf"(\S+) \S+ [^\[]+{_REST}")

_ADDRESS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%\w+)?")
_WITH_PORT = re.compile(r"([0-9.]+):[0-9]+|\[([^\]]+)\](?::[0-9]+)?")
_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{2}|.)")
_ESCAPED = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"v": b"\v", b"b": b"\b", b"f": b"\f"}


class Format(Enum):
    """How lines are written. AUTO looks at each: `{` begins JSON, else the combined family."""

    AUTO = "auto"
    COMBINED = "combined"
    VHOST = "vhost"
    JSON = "json"


class BadLine(Exception):
    """The line tells of no request that can be replayed. The text says why, in words that do not vary with the line."""


class LoggedFields:
    """The header fields that a log holds of one request. Fulfils `decision.request.Fields`."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        """`values` is by name in lower case."""
        self._values = values

    def getall(self, name: str, default: Sequence[str]) -> Sequence[str]:
        return self._values.get(name.lower(), default)

    def names(self) -> Sequence[str]:
        """The names of all fields, in lower case."""
        return tuple(self._values)


class Entry(NamedTuple):
    """A logged request: when (µs since 1970 UTC), what, and the status it was answered with (0 where not logged)."""

    time_us: int
    zone_known: bool
    facts: RequestFacts
    fields: LoggedFields
    status: int


def combined_entry(line: str, host_first: bool | None = None) -> Entry:
    """An entry in the common, combined or nginx's main format; `host_first` None looks for itself. Raises BadLine."""
    (client, time, request, status, referer, agent, forwarded), host = _parts(line, host_first)
    try:
        moment = clf_moment(time)
    except ValueError as error:
        raise BadLine(str(error)) from error
    values: dict[str, Sequence[str]] = {}
    if agent and agent != "-":
        values["user-agent"] = (_unescaped(agent),)
    if referer and referer != "-":
        values["referer"] = (_unescaped(referer),)
    if forwarded and forwarded != "-":
        values["x-forwarded-for"] = (_unescaped(forwarded),)
    if host is not None:
        values["host"] = (host,)
    fields = LoggedFields(values)
    method, target = request_line(_unescaped(request))
    facts = RequestFacts(method, target, fields, address(client))
    return Entry(moment.us, moment.zone_known, facts, fields, int(status) if status != "-" else 0)


def request_line(text: str) -> tuple[str, str]:
    """Method and target of `GET /path HTTP/1.1`. Raises BadLine where it is none that the proxy would take."""
    parts = text.split(" ")
    if len(parts) == 2:
        parts.append("HTTP/")  # some formats leave the version out
    if len(parts) != 3 or not parts[2].startswith("HTTP/"):
        raise BadLine("holds no valid request line")
    return checked(parts[0], parts[1])


def checked(method: str, target: str) -> tuple[str, str]:
    """The same, where a request could be made of them. Raises BadLine."""
    if not method.isascii() or not method.isupper() or " " in method:
        raise BadLine("holds no valid method")
    if not (target.startswith("/") or "://" in target or target == "*") or " " in target:
        raise BadLine("holds no valid request target")
    return method, target


def address(client: str) -> str:
    """A client's address as logged, less a port, brackets, or the length of a prefix."""
    if (with_port := _WITH_PORT.fullmatch(client)) is not None:
        return with_port[1] or with_port[2]
    return client.partition("/")[0]


def is_address(client: str) -> bool:
    """Whether it has the look of an address; host names and the like have not."""
    return _ADDRESS.fullmatch(client) is not None


def _parts(line: str, host_first: bool | None) -> tuple[Sequence[str], str | None]:
    if not host_first and (found := _COMBINED.fullmatch(line)) is not None:
        return found.groups(""), None
    if host_first is not False and (found := _WITH_HOST.fullmatch(line)) is not None:
        host, *rest = found.groups("")
        if host_first or is_address(rest[0]):
            return rest, host
    if not host_first and (found := _NAME_WITH_SPACES.fullmatch(line)) is not None:
        return found.groups(""), None
    raise BadLine("is not in the combined format")


def _unescaped(text: str) -> str:
    r"""Quoted text as it was: `\"` and `\\`, and `\xHH` for bytes, as Apache and nginx escape them."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(_meant, text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def _meant(escape: re.Match[bytes]) -> bytes:
    escaped = escape[1]
    return bytes([int(escaped[1:], 16)]) if len(escaped) == 3 else _ESCAPED.get(escaped, escaped)
