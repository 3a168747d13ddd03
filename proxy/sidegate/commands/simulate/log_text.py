"""Reads the text formats of access logs: combined and its variants, and the default formats of Envoy, HAProxy and AWS.

The combined format has variants: without referer and agent (common), with the virtual host in front, with a user name
that contains spaces, with a list of hops in the place of the client, with X-Forwarded-For at the end (nginx's `main`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from sidegate.commands.simulate.log_format import LogFormat
from sidegate.commands.simulate.log_time import Moment, moment_of
from sidegate.commands.simulate.logged_request import (
    BadLine,
    LoggedRequest,
    is_address,
    request_line,
    request_of,
    without_port,
)

UNKNOWN_FORMAT = "not in a known format"
UNKNOWN_PREFIX = "unknown prefix"

_QUOTED = r'"([^"\\]*(?:\\.[^"\\]*)*)"'
# What follows client, identity and user of the combined format.
_COMBINED = re.compile(
    rf" \[([^\[\]]{{1,60}})\] {_QUOTED} (\d{{3}}|-) (?:\d+|-)(?: {_QUOTED} {_QUOTED}(?: {_QUOTED})?)?(?: .*)?\Z",
    re.DOTALL,
)
# https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#default-format-string; Istio
# adds a quoted reason of failure before the sizes, and behind the upstream host the connection's addresses.
_ENVOY = re.compile(
    rf'\[([^\[\]]{{1,60}})\] {_QUOTED} (\d{{1,3}})(?: [^" ]+)*(?: "[^"]*")?(?: [^" ]+)+ '
    rf"{_QUOTED} {_QUOTED} {_QUOTED} {_QUOTED} {_QUOTED}(?: \S+ \S+ \S+ (\S+)(?: .*)?)?"
)
# https://docs.haproxy.org/3.0/configuration.html#8.2.3 (option httplog); captured fields have no names there.
_HAPROXY = re.compile(
    rf"(\S+) \[([^\[\]]{{1,60}})\] \S+ \S+ [+\d/-]+ (\d{{3}}|-1) \+?\d+ \S+ \S+ \S{{4}} \S+ \S+ "
    rf"(?:\{{[^}}]*\}} ){{0,2}}{_QUOTED}(?: .*)?"
)
# https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-access-logs.html; the Classic Load
# Balancer's lines begin with the time.
_ALB = re.compile(
    rf"(?:https?|h2|grpcs|wss?) (\S+) \S+ (\S+) \S+ [\d.-]+ [\d.-]+ [\d.-]+ (\d{{3}}|-) \S+ \d+ \d+ {_QUOTED} {_QUOTED}"
    r"(?: .*)?"
)
_CLASSIC_ELB = re.compile(
    rf"(\d{{4}}-\S+) \S+ (\S+) \S+ [\d.-]+ [\d.-]+ [\d.-]+ (\d{{3}}|-) \S+ \d+ \d+ {_QUOTED}(?: {_QUOTED}(?: .*)?)?"
)

_HOST = re.compile(r"[A-Za-z0-9._*-]+(?::\d+)?|\[[0-9A-Fa-f:.]+\](?::\d+)?")
_CLIENT = re.compile(r"[A-Za-z0-9_.-]+|unix:")
_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{2}|.)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"v": b"\v", b"b": b"\b", b"f": b"\f"}


def text_request(line: str, form: LogFormat = LogFormat.AUTO) -> LoggedRequest:
    """Read a line of one format, or of any text format (AUTO). Raises BadLine."""
    for read in _READERS[form]:
        request = read(line)
        if request is not None:
            return request
    raise BadLine(UNKNOWN_FORMAT)


def _combined(line: str, host_first: bool | None = None) -> LoggedRequest | None:
    """`host_first` None detects whether the line begins with a virtual host."""
    found = _COMBINED.search(line)
    if found is None:
        return None
    client, host = _client_and_host(line[: found.start()], host_first)
    time, request, status, referer, agent, forwarded = found.groups("")
    fields = _fields({"referer": referer, "user-agent": agent, "x-forwarded-for": forwarded, "host": host})
    form = LogFormat.VHOST if host else LogFormat.COMBINED
    return _request(time, request, client, fields, status, form)


def _client_and_host(head: str, host_first: bool | None) -> tuple[str, str]:
    """Read what stands before the time: `[HOST] CLIENT IDENTITY USER`, where CLIENT may be a list of hops."""
    words = head.split(" ")
    client, others = _client_list(words)
    if not host_first and len(others) == 2:
        return _valid_client(client), ""
    if host_first is not False and len(words) > 1 and _HOST.fullmatch(words[0]):
        behind, identity_and_user = _client_list(words[1:])
        if len(identity_and_user) == 2 and (host_first or _is_client_list(behind)):
            return _valid_client(behind), words[0]
    if host_first or len(others) < 2:
        raise BadLine(UNKNOWN_FORMAT)
    if any(is_address(without_port(word.rstrip(","))) for word in others):
        raise BadLine(UNKNOWN_PREFIX)
    return _valid_client(client), ""  # the user's name contains spaces


def _client_list(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Split off the first word, and those joined to it by commas."""
    count = 1
    while count < len(words) and words[count - 1].endswith(","):
        count += 1
    return " ".join(words[:count]), words[count:]


def _is_client_list(text: str) -> bool:
    return is_address(without_port(text.partition(",")[0]))


def _valid_client(text: str) -> str:
    first = without_port(text.partition(",")[0])
    if not (is_address(first) or _CLIENT.fullmatch(first)):
        raise BadLine(UNKNOWN_PREFIX)
    return text


def _envoy(line: str) -> LoggedRequest | None:
    found = _ENVOY.fullmatch(line)
    if found is None:
        return None
    time, request, status, forwarded, agent, request_id, host, _, peer = found.groups("")
    fields = _fields({"user-agent": agent, "x-request-id": request_id, "host": host})
    if peer and peer != "-":
        fields |= _fields({"x-forwarded-for": forwarded})
    else:
        peer = forwarded  # the default format has no other address of the client
    return _request(time, request, peer, fields, status, LogFormat.ENVOY)


def _haproxy(line: str) -> LoggedRequest | None:
    found = _HAPROXY.fullmatch(line)
    if found is None:
        return None
    client, time, status, request = found.groups("")
    return _request(time, request, client, {}, status, LogFormat.HAPROXY)


def _alb(line: str) -> LoggedRequest | None:
    found = _ALB.fullmatch(line) or _CLASSIC_ELB.fullmatch(line)
    if found is None:
        return None
    time, client, status, request, agent = found.groups("")
    return _request(time, request, client, _fields({"user-agent": agent}), status, LogFormat.ALB)


_READERS: Mapping[LogFormat, Sequence[Callable[[str], LoggedRequest | None]]] = {
    LogFormat.AUTO: (_combined, _envoy, _alb, _haproxy),
    LogFormat.COMBINED: (partial(_combined, host_first=False),),
    LogFormat.VHOST: (partial(_combined, host_first=True),),
    LogFormat.ENVOY: (_envoy,),
    LogFormat.HAPROXY: (_haproxy,),
    LogFormat.ALB: (_alb,),
}


def _request(
    time: str, request: str, client: str, fields: dict[str, Sequence[str]], status: str, form: LogFormat
) -> LoggedRequest:
    target = request_line(_unescaped(request))
    return request_of(_moment(time), target, client, fields, int(status) if status.isdecimal() else 0, form)


def _moment(text: str) -> Moment:
    try:
        return moment_of(text)
    except ValueError as error:
        raise BadLine(str(error)) from error


def _fields(values: Mapping[str, str]) -> dict[str, Sequence[str]]:
    """Return the fields that are logged; `-` stands for one that is absent."""
    return {name: (_unescaped(value),) for name, value in values.items() if value and value != "-"}


def _unescaped(text: str) -> str:
    r"""Decode `\"`, `\\` and `\xHH` (a byte), as Apache and nginx escape quoted text."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(_decoded, text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def _decoded(escape: re.Match[bytes]) -> bytes:
    escaped = escape[1]
    return bytes([int(escaped[1:], 16)]) if len(escaped) == 3 else _ESCAPED.get(escaped, escaped)
