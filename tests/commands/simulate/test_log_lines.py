"""Lines of access logs: the formats that servers write, prefixes of collectors, and lines that are skipped."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidegate.commands.simulate import log_json
from sidegate.commands.simulate.log_format import LogFormat
from sidegate.commands.simulate.log_reader import LogReader
from sidegate.commands.simulate.log_text import text_request
from sidegate.commands.simulate.log_time import clf_moment, moment_of
from sidegate.commands.simulate.logged_request import (
    BadLine,
    LoggedClient,
    LoggedRequest,
    client_of,
    is_address,
    without_port,
)

TIME = "10/Oct/2000:13:55:36 -0700"
TIME_US = 971_211_336_000_000
COMBINED = f'203.0.113.9 - alice [{TIME}] "GET /a?b=1 HTTP/1.1" 200 2326 "http://ref.example/" "Agent/1.0 \\"x\\""'
PAGE = Path(__file__).parents[3] / "docs/simulate.md"


def field(request: LoggedRequest, name: str) -> tuple[str, ...]:
    return tuple(request.facts.fields.getall(name, ()))


def reader_of(data: bytes, form: LogFormat = LogFormat.AUTO) -> tuple[LogReader, list[LoggedRequest]]:
    reader = LogReader(io.BytesIO(data), form, lambda _: None)
    return reader, list(reader.requests())


def read_line(line: str | dict[str, Any]) -> LoggedRequest:
    """Read one line with a detected format. Raises BadLine."""
    reader, requests = reader_of((line if isinstance(line, str) else json.dumps(line)).encode())
    if not requests:
        raise BadLine(reader.first_bad[0].reason)
    return requests[0]


# -- the combined format and its variants ------------------------------------------------------------------------------


def test_combined_line_is_read_completely() -> None:
    request = text_request(COMBINED)
    assert request.time_us == TIME_US
    assert request.facts[:2] == ("GET", "/a?b=1")
    assert request.facts.peer == "203.0.113.9"
    assert request.status == 200
    assert field(request, "user-Agent") == ('Agent/1.0 "x"',)
    assert field(request, "Referer") == ("http://ref.example/",)
    assert field(request, "X-User-ID") == ()


@pytest.mark.parametrize(
    ("line", "host", "peer", "target"),
    [
        (f'1.2.3.4 - - [{TIME}] "GET / HTTP/1.1" 200 5', (), "1.2.3.4", "/"),
        (f'1.2.3.4 - - [{TIME}] "GET / HTTP/1.1" 200 -', (), "1.2.3.4", "/"),
        (f'1.2.3.4 - - [{TIME}] "GET /old" 200 5', (), "1.2.3.4", "/old"),
        (f'1.2.3.4 - John Doe [{TIME}] "GET / HTTP/1.1" 200 5 "-" "-"', (), "1.2.3.4", "/"),
        (f'client.example.com - - [{TIME}] "GET / HTTP/1.1" 200 5', (), "client.example.com", "/"),
        (f'unix: - - [{TIME}] "GET / HTTP/1.1" 200 5', (), "unix:", "/"),
        (
            f'www.example.com:443 1.2.3.4 - - [{TIME}] "GET / HTTP/1.1" 200 5 "-" "-"',
            ("www.example.com:443",),
            "1.2.3.4",
            "/",
        ),
        (f'2001:db8::7 - - [{TIME}] "GET / HTTP/2.0" 200 5 "-" "-" 0.003 "more"', (), "2001:db8::7", "/"),
        (f'a.test [2001:db8::7]:4711 - - [{TIME}] "GET / HTTP/2.0" 200 5', ("a.test",), "2001:db8::7", "/"),
        (f'1.2.3.4 - - [{TIME}] "GET http://h/x HTTP/1.1" - 0 "-" "-"', ("h",), "1.2.3.4", "/x"),
        (f'1.2.3.4 - - [{TIME}] "GET /\\xc3\\xa9\\\\ HTTP/1.1" 200 5', (), "1.2.3.4", "/é\\"),
        ('1.2.3.4 - - [2000-10-10T20:55:36+00:00] "GET / HTTP/1.1" 200 5', (), "1.2.3.4", "/"),
    ],
)
def test_variants_of_the_combined_format_are_read(line: str, host: tuple[str, ...], peer: str, target: str) -> None:
    request = text_request(line)
    assert (field(request, "Host"), request.facts.peer, request.facts.target) == (host, peer, target)
    assert request.time_us == TIME_US


def test_last_quoted_value_of_nginx_is_the_x_forwarded_for_field() -> None:
    assert field(text_request(COMBINED + ' "198.51.100.1, 10.0.0.1"'), "X-Forwarded-For") == ("198.51.100.1, 10.0.0.1",)
    assert field(text_request(COMBINED + ' "-"'), "X-Forwarded-For") == ()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "not in a known format"),
        ("\x00\x01garbage", "not in a known format"),
        (COMBINED[:40], "not in a known format"),
        (COMBINED.replace("GET", "G T"), "invalid request line"),
        (COMBINED.replace("GET /a?b=1 HTTP/1.1", "-"), "invalid request line"),
        (COMBINED.replace("GET /a?b=1 HTTP/1.1", ""), "invalid request line"),
        (COMBINED.replace("GET /a?b=1 HTTP/1.1", "\\x16\\x03\\x01"), "invalid request line"),
        (COMBINED.replace("GET", "get"), "invalid method"),
        (COMBINED.replace("/a?b=1", "a"), "invalid request target"),
        (COMBINED.replace("Oct", "Okt"), "unreadable time"),
        (COMBINED.replace("10/Oct", "32/Oct"), "unreadable time"),
    ],
)
def test_line_without_a_request_is_skipped_with_the_reason(line: str, reason: str) -> None:
    with pytest.raises(BadLine) as raised:
        text_request(line)
    assert str(raised.value) == reason


# -- prefixes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix",
    [
        "2026-03-02T08:00:00.123456789Z stdout F ",
        "2026-03-02T08:00:00.123456789+01:00 stderr F ",
        "Mar  2 08:00:00 web-1 nginx[12]: ",
        "<190>Mar 12 08:00:00 web-1 nginx: ",
        "<190>Mar 12 08:00:00 nginx: ",
        "2026-03-02T08:00:00.123456+00:00 web-1 nginx[12]: ",
        "<190>1 2026-03-02T08:00:00Z web-1 nginx 12 - - ",
        '<190>1 2026-03-02T08:00:00Z web-1 nginx 12 access [meta x="1"][y z="2"] ',
        "web-1  | ",
        "web-1  | 2026-03-02T08:00:00.123Z ",
        "[pod/web-0/nginx] ",
        "[pod/web-0/nginx] 2026-03-02T08:00:00.123Z ",
        "2026-03-02T08:00:00.123456789Z ",
    ],
)
@pytest.mark.parametrize(
    "line",
    [COMBINED, json.dumps({"time": TIME, "method": "GET", "path": "/a?b=1", "client": "203.0.113.9", "status": 200})],
    ids=["combined", "json"],
)
def test_known_prefix_is_removed(prefix: str, line: str) -> None:
    reader, (request,) = reader_of((prefix + line).encode())
    assert (request.time_us, request.facts.peer, request.facts.target) == (TIME_US, "203.0.113.9", "/a?b=1")
    assert reader.prefixed == 1


@pytest.mark.parametrize(
    "prefix",
    ["web-1 > ", "web-1, nginx: ", "08:00:00 ", "2026-03-02 08:00:00 ", "[web] ", "nginx stdout ", "INFO access "],
)
def test_line_with_an_unknown_prefix_is_skipped(prefix: str) -> None:
    with pytest.raises(BadLine) as raised:
        read_line(prefix + COMBINED)
    assert str(raised.value) in {"unknown prefix", "not in a known format"}


def test_part_of_a_line_that_the_runtime_split_is_skipped() -> None:
    with pytest.raises(BadLine, match="part of a line that the container runtime split"):
        read_line("2026-03-02T08:00:00.1Z stdout P " + COMBINED)


# -- clients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [", ", ","])
@pytest.mark.parametrize("host", ["", "a.test "])
def test_list_of_hops_as_first_field_keeps_clients_apart(separator: str, host: str) -> None:
    rest = COMBINED.removeprefix("203.0.113.9")
    lines = [host + separator.join([f"203.0.113.{number}", "10.0.0.1", "10.0.0.2"]) + rest for number in range(6)]
    _, requests = reader_of("\n".join(lines).encode())
    assert [request.facts.peer for request in requests] == [f"203.0.113.{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("logged", "peer", "forwarded_for"),
    [
        ("198.51.100.1", "198.51.100.1", ""),
        ("198.51.100.1, 10.0.0.1", "198.51.100.1", ""),
        ("6.6.6.6, 198.51.100.1, 10.0.0.1", "198.51.100.1", "6.6.6.6"),
        ("198.51.100.1:4711, 10.0.0.1:80", "198.51.100.1", ""),
        ("2001:db8::1, fd00::1", "2001:db8::1", ""),
        ("10.9.9.9, 10.0.0.1", "10.9.9.9", ""),
        ("unknown, 10.0.0.1", "unknown", ""),
    ],
)
def test_last_public_address_of_a_list_is_the_peer(logged: str, peer: str, forwarded_for: str) -> None:
    assert client_of(logged) == LoggedClient(peer, forwarded_for)


@pytest.mark.parametrize(
    ("logged", "read", "known"),
    [
        ("1.2.3.4", "1.2.3.4", True),
        ("1.2.3.4:55", "1.2.3.4", True),
        ("[2001:db8::1]:55", "2001:db8::1", True),
        ("[2001:db8::1]", "2001:db8::1", True),
        ("2001:db8::/64", "2001:db8::", True),
        ("fe80::1%eth0", "fe80::1%eth0", True),
        ("host.example.com", "host.example.com", False),
        ("1.2.3.400", "1.2.3.400", False),
        ("-", "-", False),
        ("", "", False),
    ],
)
def test_client_is_read_without_its_port(logged: str, read: str, known: bool) -> None:
    assert (without_port(logged), is_address(without_port(logged))) == (read, known)


# -- formats of other proxies and load balancers -----------------------------------------------------------------------

ENVOY = '[2000-10-10T20:55:36.000Z] "GET /a?b=1 HTTP/1.1" 200 - 0 154 4 3 "203.0.113.9, 10.0.0.1" "Agent/1.0" "id-1" "a.test" "10.0.0.2:80"'
ISTIO = (
    '[2000-10-10T20:55:36.000Z] "GET /a?b=1 HTTP/1.1" 200 - via_upstream - "-" 0 154 4 3 "203.0.113.9" "Agent/1.0" "id-1" '
    '"a.test" "10.0.0.2:80" inbound|80|| 127.0.0.6:50000 10.0.0.3:80 10.0.0.1:4711 outbound_.80_._.a.test default'
)
ALB = (
    "https 2000-10-10T20:55:36.000000Z app/my-balancer/50dc6c495c0c9188 203.0.113.9:2817 10.0.0.1:80 0.086 0.048 0.037 200 "
    '200 0 57 "GET https://a.test:443/a?b=1 HTTP/1.1" "Agent/1.0" ECDHE-RSA-AES128 TLSv1.2 arn:aws:x "Root=1-5" "a.test" '
    '"arn:y" 1 2000-10-10T20:55:35.9Z "authenticate,forward" "-" "-" "10.0.0.1:80" "200" "-" "-"'
)
ELB = (
    "2000-10-10T20:55:36.000000Z my-balancer 203.0.113.9:2817 10.0.0.1:80 0.000073 0.001048 0.000057 200 200 0 29 "
    '"GET http://a.test:80/a?b=1 HTTP/1.1" "Agent/1.0" - -'
)
HAPROXY = (
    "Oct 10 20:55:36 localhost haproxy[14389]: 203.0.113.9:33317 [10/Oct/2000:20:55:36.000] http-in static/srv1 10/0/30/69/109 "
    '200 2750 - - ---- 1/1/1/1/0 0/0 {1wt.eu} {} "GET /a?b=1 HTTP/1.1"'
)
GCP = {
    "timestamp": "2000-10-10T20:55:36Z", "jsonPayload": {"statusDetails": "response_sent_by_backend"},
    "httpRequest": {"requestMethod": "GET", "requestUrl": "http://a.test/a?b=1", "status": 200, "userAgent": "Agent/1.0",
                    "remoteIp": "203.0.113.9"},
}  # fmt: skip
ECS_DOTTED = {
    "@timestamp": "2000-10-10T20:55:36Z", "http.request.method": "GET", "url.path": "/a", "url.query": "b=1",
    "http.response.status_code": 200, "source.ip": "203.0.113.9", "url.domain": "a.test", "user_agent.original": "Agent/1.0",
}  # fmt: skip
ECS_NESTED = {
    "@timestamp": "2000-10-10T20:55:36Z", "http": {"request": {"method": "GET"}, "response": {"status_code": 200}},
    "url": {"original": "http://a.test/a?b=1"}, "source": {"ip": "203.0.113.9"}, "user_agent": {"original": "Agent/1.0"},
    "host": {"name": "web-1"},
}  # fmt: skip
ENVOY_JSON = {
    "start_time": "2000-10-10T20:55:36Z", "method": "GET", "path": "/a?b=1", "response_code": 200, "authority": "a.test",
    "downstream_remote_address": "203.0.113.9:4711", "user_agent": "Agent/1.0",
}  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [ENVOY, ALB, ELB, HAPROXY, GCP, ECS_DOTTED, ECS_NESTED, ENVOY_JSON],
    ids=["envoy", "alb", "elb", "haproxy", "gcp", "ecs", "ecs-nested", "envoy-json"],
)
def test_default_formats_of_proxies_and_load_balancers_are_read(line: str | dict[str, Any]) -> None:
    request = read_line(line)
    assert (request.time_us, request.status) == (TIME_US, 200)
    assert (request.facts.method, request.facts.target, request.facts.peer) == ("GET", "/a?b=1", "203.0.113.9")
    if line is not HAPROXY:
        assert field(request, "Host")[0].startswith("a.test")
        assert field(request, "User-Agent") == ("Agent/1.0",)


def test_istio_line_has_the_connections_peer_and_the_forwarded_field() -> None:
    request = read_line(ISTIO)
    assert (request.facts.peer, field(request, "X-Forwarded-For")) == ("10.0.0.1", ("203.0.113.9",))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (HAPROXY.replace("GET /a?b=1 HTTP/1.1", "<BADREQ>"), "invalid request line"),
        (HAPROXY[:-1], "not in a known format"),
        (ALB.replace("GET https://a.test:443/a?b=1 HTTP/1.1", "- http://a.test:80- "), "invalid request line"),
        (ENVOY.replace("2000-10-10T", "2000-13-10T"), "unreadable time"),
    ],
)
def test_bad_line_of_a_proxy_is_skipped_with_the_reason(line: str, reason: str) -> None:
    with pytest.raises(BadLine) as raised:
        read_line(line)
    assert str(raised.value) == reason


@pytest.mark.parametrize(
    ("form", "line"),
    [
        (LogFormat.ENVOY, ENVOY), (LogFormat.ALB, ALB), (LogFormat.HAPROXY, HAPROXY), (LogFormat.COMBINED, COMBINED),
        (LogFormat.JSON, json.dumps(GCP)),
    ],
)  # fmt: skip
def test_only_the_chosen_format_is_read(form: LogFormat, line: str) -> None:
    everything = "\n".join([ENVOY, ALB, HAPROXY, COMBINED, json.dumps(GCP)]).encode()
    reader, requests = reader_of(everything, form)
    assert [request.format for request in requests] == [form]
    assert requests[0].facts.target == read_line(line).facts.target
    assert reader.bad.total() == 4


# -- JSON lines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        {"time": "2000-10-10T20:55:36Z", "method": "GET", "path": "/a?b=1", "client": "203.0.113.9", "status": 200},
        {"ts": 971211336.0, "request": {"remote_ip": "203.0.113.9", "method": "GET", "uri": "/a?b=1"}, "status": 200},
        {"time_local": TIME, "request": "GET /a?b=1 HTTP/1.1", "remote_addr": "203.0.113.9", "status": "200"},
        {"msec": "971211336.000", "request_method": "GET", "uri": "/a", "args": "b=1", "remote_addr": "203.0.113.9", "status": 200},
        {"timestamp": 971211336000, "method": "GET", "target": "/a?b=1", "client": "203.0.113.9:4711", "status": 200},
        {"StartUTC": "2000-10-10T20:55:36Z", "RequestMethod": "GET", "RequestPath": "/a?b=1", "ClientHost": "203.0.113.9", "DownstreamStatus": 200},
        {"log": COMBINED + "\n", "stream": "stdout", "time": "2026-03-02T08:00:00Z"},
        {"time": TIME, "stream": "stdout", "log": '{"method": "GET", "path": "/a?b=1", "client": "203.0.113.9", "status": 200}\n'},
        {"timestamp": TIME, "jsonPayload": {"method": "GET", "path": "/a?b=1", "client": "203.0.113.9", "status": 200}},
        {"@timestamp": "2026-03-02T08:00:00Z", "message": "web-1  | " + COMBINED},
    ],
    ids=["plain", "caddy", "request-line", "nginx", "sidegate", "traefik", "docker", "docker-json", "payload", "message"],
)  # fmt: skip
def test_json_lines_of_many_servers_yield_the_same_request(line: dict[str, object]) -> None:
    request = read_line(line)
    assert (request.time_us, request.status) == (TIME_US, 200)
    assert (request.facts.method, request.facts.target, request.facts.peer) == ("GET", "/a?b=1", "203.0.113.9")


def test_json_headers_are_read_in_any_case_with_all_their_values() -> None:
    line = {"time": 1, "method": "GET", "path": "/", "host": "a.example", "http_x_user_id": "alice", "user_agent": "-",
            "headers": {"X-Tenant": ["one", "two"], "X-Plan": "free", "X-None": None}}  # fmt: skip
    request = read_line(line)
    assert field(request, "x-tenant") == ("one", "two")
    assert field(request, "X-USER-ID") == ("alice",)
    assert field(request, "Host") == ("a.example",)
    assert field(request, "X-Plan") == ("free",)
    assert field(request, "User-Agent") == field(request, "X-None") == ()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON"),
        ('{"a": 1}', "no time field found"),
        ('{"method": "GET", "path": "/", "when": 1}', "no time field found"),
        ('{"time": 1, "level": "info"}', "no request found: neither method and path nor a request line"),
        ('{"time": 1, "method": 7, "path": []}', "no request found: neither method and path nor a request line"),
        ('{"time": true, "method": "GET", "path": "/"}', "unreadable time"),
        ('{"time": [], "method": "GET", "path": "/"}', "unreadable time"),
        ('{"time": 1, "message": "worker started"}', "not in a known format"),
    ],
)
def test_json_line_without_a_request_is_skipped_with_the_reason(line: str, reason: str) -> None:
    with pytest.raises(BadLine) as raised:
        read_line(line)
    assert str(raised.value) == reason


def test_json_that_is_not_an_object_is_skipped() -> None:
    assert reader_of(b"[1]", LogFormat.JSON)[0].bad == {"JSON, but not an object": 1}


TABLES = {
    "time": log_json.TIME,
    "method": log_json.METHOD,
    "target": log_json.TARGET,
    "query": log_json.QUERY,
    "request line": log_json.REQUEST,
    "client": log_json.CLIENT,
    "`Host`": log_json.HOST,
    "status": log_json.STATUS,
    "header fields": log_json.FIELDS,
    "other header fields": tuple(log_json.NAMED_FIELDS),
    "wrapped line": log_json.WRAPPED,
}


def test_the_documented_members_of_json_lines_are_those_that_are_read() -> None:
    rows = re.findall(r"^\| (.+?) \| (`.+`) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    documented = {fact: tuple(re.findall(r"`([^`]+)`", names)) for fact, names in rows}
    assert {fact: documented.get(fact) for fact in TABLES} == TABLES


# -- times -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "us", "zone_known"),
    [
        (971211336, TIME_US, True),
        (971211336.5, TIME_US + 500_000, True),
        (971211336000, TIME_US, True),
        (971211336000000, TIME_US, True),
        (971211336000000000, TIME_US, True),
        ("971211336.250", TIME_US + 250_000, True),
        ("2000-10-10T20:55:36Z", TIME_US, True),
        ("2000-10-10T13:55:36.5-07:00", TIME_US + 500_000, True),
        ("2000-10-10 20:55:36 UTC", TIME_US, True),
        ("2000-10-10T20:55:36.123456789Z", TIME_US + 123_456, True),
        ("2000-10-10 20:55:36", TIME_US, False),
        ("2000-10-10 20:55:36,250", TIME_US + 250_000, False),
        (TIME, TIME_US, True),
        ("10/Oct/2000:20:55:36 +0000", TIME_US, True),
        ("10/Oct/2000:20:55:36.25 GMT", TIME_US + 250_000, True),
        ("10/Oct/2000:20:55:36 CEST", TIME_US, False),
        ("10/Oct/2000:20:55:36", TIME_US, False),
    ],
)
def test_times_are_read_in_the_forms_that_logs_use(value: object, us: int, zone_known: bool) -> None:
    assert moment_of(value) == (us, zone_known)


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, 1e30, float("inf"), "", "soon", "2000-13-01", "29/Feb/2001:00:00:00 +0000", {}, "1" * 21],
)
def test_unreadable_time_is_an_error(value: object) -> None:
    with pytest.raises(ValueError, match="unreadable time"):
        moment_of(value)


def test_leap_second_is_the_second_after_it() -> None:
    assert clf_moment("31/Dec/2016:23:59:60 +0000") == clf_moment("01/Jan/2017:00:00:00 +0000")


# -- the reader --------------------------------------------------------------------------------------------------------


def test_skipped_lines_are_counted_by_reason_and_the_first_are_shown_escaped() -> None:
    reader, requests = reader_of(b"\x1b[31mred\n" * 7 + COMBINED.encode() + b"\r\n\n{}\n")
    assert len(requests) == reader.request_count == 1
    assert reader.lines == 10
    assert reader.bad == {"not in a known format": 7, "no time field found": 1}
    assert [line.number for line in reader.first_bad] == [1, 2, 3, 4, 5]
    assert reader.first_bad[0].beginning == "\\x1b[31mred"


def test_lines_of_several_formats_may_be_mixed_and_are_counted() -> None:
    mixed = "\n".join([COMBINED, ENVOY, json.dumps(GCP), f"a.test {COMBINED}", ALB, HAPROXY])
    reader, requests = reader_of(mixed.encode())
    assert len(requests) == 6
    assert reader.formats == dict.fromkeys(("combined", "envoy", "json", "vhost", "alb", "haproxy"), 1)
    assert reader.prefixed == 1


def test_times_that_step_back_and_unknown_zones_are_counted() -> None:
    later, earlier = COMBINED, COMBINED.replace("13:55:36 -0700", "13:55:30 PDT")
    reader, requests = reader_of(f"{later}\n{earlier}\n{later}".encode())
    assert (reader.out_of_order, reader.zone_unknown) == (1, 1)
    assert (reader.first_us, reader.last_us) == (requests[1].time_us, requests[0].time_us)


NAMES = st.sampled_from(
    [
        "time",
        "method",
        "path",
        "request",
        "headers",
        "host",
        "client",
        "status",
        "http_a",
        "query",
        "http",
        "url",
        "log",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, JSON, max_size=8))
def test_any_json_object_is_a_request_or_is_skipped(line: dict[str, object]) -> None:
    with contextlib.suppress(BadLine):
        read_line(line)


PIECES = st.sampled_from(
    [COMBINED, ENVOY, ALB, HAPROXY, "web-1 | ", "<190>", "2026-03-02T08:00:00Z ", COMBINED[:-3], "{}"]
)


@given(st.lists(st.text(max_size=60) | st.lists(PIECES, max_size=3).map("".join), max_size=5))
def test_any_text_is_read_without_an_exception(lines: list[str]) -> None:
    reader, requests = reader_of("\n".join(lines).encode("utf-8", "surrogatepass"))
    assert len(requests) + reader.bad.total() <= reader.lines
