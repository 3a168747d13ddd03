"""JSON lines as requests. The names taken for each fact are the tables below; the first that is present counts.

`request` may be a request line (`GET /a HTTP/1.1`) or, as Caddy writes it, an object with the same names inside.
`headers` is an object of text or lists of text. Any `http_NAME` is the header field NAME, as nginx names its variables.
Sidegate's own log (`log.requests: all`) and its names are among them.
"""

from collections.abc import Mapping, Sequence

import orjson

from sidegate.commands.simulate.log_entry import BadLine, Entry, LoggedFields, address, checked, request_line
from sidegate.commands.simulate.log_time import moment_of
from sidegate.decision.request import RequestFacts

TIME = ("time", "timestamp", "@timestamp", "ts", "time_iso8601", "time_local", "StartUTC", "msec", "date")
METHOD = ("method", "request_method", "RequestMethod", "http_method")
TARGET = ("target", "request_uri", "uri", "RequestPath", "path", "url")
QUERY = ("query", "query_string", "args")
REQUEST = ("request", "request_line")
CLIENT = ("client", "remote_addr", "remote_ip", "client_ip", "clientip", "ClientHost", "ClientAddr", "remote", "ip")
HOST = ("host", "RequestHost", "vhost", "server_name")
STATUS = ("status", "status_code", "DownstreamStatus", "code")
FIELDS = ("headers", "request_headers")
# Header fields that logs hold under a name of their own.
NAMED_FIELDS = {
    "user_agent": "user-agent",
    "referer": "referer",
    "referrer": "referer",
    "x_forwarded_for": "x-forwarded-for",
}

# Names of header fields with this in front: `http_x_user_id` is X-User-ID.
_FIELD_PREFIX = "http_"
_NO_FIELDS = {"http_method", "http_version"}

Line = Mapping[str, object]


def json_entry(line: bytes) -> Entry:
    """The request that a JSON line tells of. Raises BadLine."""
    try:
        read = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadLine("is not valid JSON") from error
    if not isinstance(read, dict):
        raise BadLine("is JSON, but no object")
    request = read.get("request")
    asked: Line = {**read, **request} if isinstance(request, dict) else read
    try:
        moment = moment_of(_first(read, TIME))
    except ValueError as error:
        raise BadLine(str(error)) from error
    method, target = _request(asked)
    fields = LoggedFields(_fields(asked))
    facts = RequestFacts(method, target, fields, address(_text(asked, CLIENT)))
    return Entry(moment.us, moment.zone_known, facts, fields, _status(read))


def _request(line: Line) -> tuple[str, str]:
    target, method = _text(line, TARGET), _text(line, METHOD)
    if not (target and method):
        whole = _text(line, REQUEST)
        if not whole:
            raise BadLine("holds no request: neither method and path nor a request line")
        return request_line(whole)
    query = _text(line, QUERY).lstrip("?")
    return checked(method, f"{target}?{query}" if query and "?" not in target else target)


def _fields(line: Line) -> dict[str, Sequence[str]]:
    """Header fields by name in lower case; an object of headers counts before names of their own."""
    fields: dict[str, Sequence[str]] = {}
    for name, value in line.items():
        if name.startswith(_FIELD_PREFIX) and name not in _NO_FIELDS:
            _add(fields, name.removeprefix(_FIELD_PREFIX).replace("_", "-"), value)
        elif name in NAMED_FIELDS:
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


def _status(line: Line) -> int:
    status = _first(line, STATUS)
    if isinstance(status, str) and status.isdecimal() and len(status) == 3:
        return int(status)
    return status if isinstance(status, int) else 0


def _text(line: Line, names: Sequence[str]) -> str:
    value = _first(line, names)
    return value if isinstance(value, str) else ""


def _first(line: Line, names: Sequence[str]) -> object:
    for name in names:
        if name in line:
            return line[name]
    return None
