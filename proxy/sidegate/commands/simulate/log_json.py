"""Reads JSON lines. The tables below name the members that are read; the first that is present counts.

A name with dots is a member of that name, or a member of nested objects. `request` may be a request line (`GET /a
HTTP/1.1`) or, as Caddy writes it, an object with members of these tables. `headers` is an object of strings or lists of
strings. A member `http_NAME` is the header field NAME, after nginx's variables. Sidegate's own log is one of the
formats. docs/simulate.md repeats the tables; a test compares them.
"""

from collections.abc import Mapping, Sequence

import orjson

from sidegate.commands.simulate.log_format import LogFormat
from sidegate.commands.simulate.log_time import Moment, moment_of
from sidegate.commands.simulate.logged_request import (
    BadLine,
    LoggedRequest,
    request_line,
    request_of,
    valid_request,
)

TIME = ("time", "timestamp", "@timestamp", "ts", "start_time", "time_iso8601", "time_local", "StartUTC", "msec", "date")
METHOD = (
    "method",
    "request_method",
    "RequestMethod",
    "http_method",
    "httpRequest.requestMethod",
    "http.request.method",
)
TARGET = (
    *("target", "request_uri", "uri", "RequestPath", "path", "httpRequest.requestUrl", "url.original", "url.full"),
    *("url.path", "url"),
)
QUERY = ("query", "query_string", "args", "url.query")
REQUEST = ("request", "request_line")
CLIENT = (
    *("client", "remote_addr", "remote_ip", "client_ip", "clientip", "ClientHost", "ClientAddr", "remote", "ip"),
    *(
        "downstream_remote_address",
        "httpRequest.remoteIp",
        "source.ip",
        "client.ip",
        "source.address",
        "client.address",
    ),
)
HOST = ("host", "RequestHost", "vhost", "server_name", "authority", ":authority", "url.domain")
STATUS = (
    *("status", "status_code", "DownstreamStatus", "code", "response_code", "httpRequest.status"),
    "http.response.status_code",
)
FIELDS = ("headers", "request_headers")
# Header fields that logs contain under names of their own.
NAMED_FIELDS = {
    "user_agent": "user-agent",
    "user_agent.original": "user-agent",
    "httpRequest.userAgent": "user-agent",
    "referer": "referer",
    "referrer": "referer",
    "httpRequest.referer": "referer",
    "http.request.referrer": "referer",
    "x_forwarded_for": "x-forwarded-for",
}
# Members in which log collectors put the line that a program wrote, or (the last) the object.
WRAPPED = ("log", "message", "MESSAGE", "textPayload", "jsonPayload")

# A header field with this prefix: `http_x_user_id` is X-User-ID.
_FIELD_PREFIX = "http_"
_NO_FIELDS = {"http_method", "http_version"}
_DOTTED_FIELDS = tuple(name for name in NAMED_FIELDS if "." in name)

JsonLine = Mapping[str, object]


def parsed_line(line: bytes) -> JsonLine:
    """Parse a line that is one JSON object. Raises BadLine."""
    try:
        read = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadLine("not valid JSON") from error
    if not isinstance(read, dict):
        raise BadLine("JSON, but not an object")
    return read


def wrapped_line(line: JsonLine) -> str | JsonLine | None:
    """Return what a log collector wrapped: a line of text or an object; None if the line itself is a request."""
    if _first(line, METHOD) is not None or _first(line, REQUEST) is not None:
        return None
    wrapped = _first(line, WRAPPED)
    if isinstance(wrapped, dict):
        return {**line, **wrapped}
    return wrapped if isinstance(wrapped, str) else None


def json_request(line: JsonLine) -> LoggedRequest:
    """Read the request of a JSON line. Raises BadLine."""
    request = line.get("request")
    members: JsonLine = {**line, **request} if isinstance(request, dict) else line
    moment = _moment(line)
    return request_of(
        moment, _request(members), _text(members, CLIENT), _fields(members), _status(line), LogFormat.JSON
    )


def _moment(line: JsonLine) -> Moment:
    time = _first(line, TIME)
    if time is None:
        raise BadLine("no time field found")
    try:
        return moment_of(time)
    except ValueError as error:
        raise BadLine(str(error)) from error


def _request(line: JsonLine) -> tuple[str, str]:
    target, method = _text(line, TARGET), _text(line, METHOD)
    if not (target and method):
        whole = _text(line, REQUEST)
        if not whole:
            raise BadLine("no request found: neither method and path nor a request line")
        return request_line(whole)
    query = _text(line, QUERY).lstrip("?")
    return valid_request(method, f"{target}?{query}" if query and "?" not in target else target)


def _fields(line: JsonLine) -> dict[str, Sequence[str]]:
    """Return header fields by name in lower case; members of `headers` replace members with names of their own."""
    fields: dict[str, Sequence[str]] = {}
    for name, value in line.items():
        if name.startswith(_FIELD_PREFIX) and name not in _NO_FIELDS:
            _add(fields, name.removeprefix(_FIELD_PREFIX).replace("_", "-"), value)
        elif name in NAMED_FIELDS:
            _add(fields, NAMED_FIELDS[name], value)
    for name in _DOTTED_FIELDS:
        if (value := _member(line, name)) is not None:
            _add(fields, NAMED_FIELDS[name], value)
    if host := _text(line, HOST):
        fields["host"] = (host,)
    headers = _first(line, FIELDS)
    if isinstance(headers, dict):
        for name, value in headers.items():
            _add(fields, name.lower(), value)
    return fields


def _add(fields: dict[str, Sequence[str]], name: str, value: object) -> None:
    values = value if isinstance(value, list) else [value]
    texts = tuple(str(item) for item in values if isinstance(item, str | int | float) and item not in ("", "-"))
    if texts:
        fields[name] = texts


def _status(line: JsonLine) -> int:
    status = _first(line, STATUS)
    if isinstance(status, str) and status.isdecimal() and len(status) == 3:
        return int(status)
    return status if isinstance(status, int) else 0


def _text(line: JsonLine, names: Sequence[str]) -> str:
    """Return the first member that is a string; ECS, for one, has an object `host`."""
    for name in names:
        if isinstance(value := _member(line, name), str):
            return value
    return ""


def _first(line: JsonLine, names: Sequence[str]) -> object:
    for name in names:
        if (value := _member(line, name)) is not None:
            return value
    return None


def _member(line: JsonLine, name: str) -> object:
    if name in line:
        return line[name]
    if "." not in name:
        return None
    value: object = line
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
