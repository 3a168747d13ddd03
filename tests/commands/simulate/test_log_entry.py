"""What a line tells of: the formats that servers write, and the lines that are none of them."""

import contextlib
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidegate.commands.simulate.log_entry import BadLine, Entry, Format, address, combined_entry, is_address
from sidegate.commands.simulate.log_json import json_entry
from sidegate.commands.simulate.log_reader import LogReader
from sidegate.commands.simulate.log_time import clf_moment, moment_of

TIME = "10/Oct/2000:13:55:36 -0700"
TIME_US = 971_211_336_000_000
COMBINED = f'203.0.113.9 - alice [{TIME}] "GET /a?b=1 HTTP/1.1" 200 2326 "http://ref.example/" "Agent/1.0 \\"x\\""'


def field(entry: Entry, name: str) -> tuple[str, ...]:
    return tuple(entry.facts.fields.getall(name, ()))


# A combined line is a request with two fields


def test_a_combined_line_is_read_whole() -> None:
    entry = combined_entry(COMBINED)
    assert entry.time_us == TIME_US
    assert entry.facts[:2] == ("GET", "/a?b=1")
    assert entry.facts.peer == "203.0.113.9"
    assert entry.status == 200
    assert field(entry, "user-Agent") == ('Agent/1.0 "x"',)
    assert field(entry, "Referer") == ("http://ref.example/",)
    assert field(entry, "X-User-ID") == ()


@pytest.mark.parametrize(
    ("line", "host", "peer", "target"),
    [
        (f'1.2.3.4 - - [{TIME}] "GET / HTTP/1.1" 200 5', (), "1.2.3.4", "/"),
        (f'1.2.3.4 - - [{TIME}] "GET / HTTP/1.1" 200 -', (), "1.2.3.4", "/"),
        (f'1.2.3.4 - - [{TIME}] "GET /old" 200 5', (), "1.2.3.4", "/old"),
        (f'1.2.3.4 - John Doe [{TIME}] "GET / HTTP/1.1" 200 5 "-" "-"', (), "1.2.3.4", "/"),
        (
            f'www.example.com:443 1.2.3.4 - - [{TIME}] "GET / HTTP/1.1" 200 5 "-" "-"',
            ("www.example.com:443",),
            "1.2.3.4",
            "/",
        ),
        (f'2001:db8::7 - - [{TIME}] "GET / HTTP/2.0" 200 5 "-" "-" 0.003 "more"', (), "2001:db8::7", "/"),
        (f'1.2.3.4 - - [{TIME}] "GET http://h/x HTTP/1.1" - 0 "-" "-"', (), "1.2.3.4", "http://h/x"),
        (f'1.2.3.4 - - [{TIME}] "GET /\\xc3\\xa9\\\\ HTTP/1.1" 200 5', (), "1.2.3.4", "/é\\"),
    ],
)
def test_the_relatives_of_the_combined_format_are_read(
    line: str, host: tuple[str, ...], peer: str, target: str
) -> None:
    entry = combined_entry(line)
    assert (field(entry, "Host"), entry.facts.peer, entry.facts.target) == (host, peer, target)


def test_what_nginx_adds_at_the_end_is_the_forwarded_for_field() -> None:
    assert field(combined_entry(COMBINED + ' "198.51.100.1, 10.0.0.1"'), "X-Forwarded-For") == (
        "198.51.100.1, 10.0.0.1",
    )
    assert field(combined_entry(COMBINED + ' "-"'), "X-Forwarded-For") == ()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "is not in the combined format"),
        ("\x00\x01garbage", "is not in the combined format"),
        (COMBINED[:40], "is not in the combined format"),
        (COMBINED.replace("GET", "G T"), "holds no valid request line"),
        (COMBINED.replace("GET /a?b=1 HTTP/1.1", "-"), "holds no valid request line"),
        (COMBINED.replace("GET /a?b=1 HTTP/1.1", ""), "holds no valid request line"),
        (COMBINED.replace("GET /a?b=1 HTTP/1.1", "\\x16\\x03\\x01"), "holds no valid request line"),
        (COMBINED.replace("GET", "get"), "holds no valid method"),
        (COMBINED.replace("/a?b=1", "a"), "holds no valid request target"),
        (COMBINED.replace("Oct", "Okt"), "its time cannot be read"),
        (COMBINED.replace("10/Oct", "32/Oct"), "its time cannot be read"),
    ],
)
def test_a_line_that_is_no_request_says_why(line: str, reason: str) -> None:
    with pytest.raises(BadLine) as raised:
        combined_entry(line)
    assert str(raised.value) == reason


# JSON lines


@pytest.mark.parametrize(
    "line",
    [
        {"time": "2000-10-10T20:55:36Z", "method": "GET", "path": "/a?b=1", "client": "203.0.113.9", "status": 200},
        {"ts": 971211336.0, "request": {"remote_ip": "203.0.113.9", "method": "GET", "uri": "/a?b=1"}, "status": 200},
        {"time_local": TIME, "request": "GET /a?b=1 HTTP/1.1", "remote_addr": "203.0.113.9", "status": "200"},
        {"msec": "971211336.000", "request_method": "GET", "uri": "/a", "args": "b=1", "remote_addr": "203.0.113.9", "status": 200},
        {"timestamp": 971211336000, "method": "GET", "target": "/a?b=1", "client": "203.0.113.9:4711", "status": 200},
        {"StartUTC": "2000-10-10T20:55:36Z", "RequestMethod": "GET", "RequestPath": "/a?b=1", "ClientHost": "203.0.113.9", "DownstreamStatus": 200},
    ],
    ids=["plain", "caddy", "request-line", "nginx", "sidegate", "traefik"],
)  # fmt: skip
def test_json_lines_of_many_servers_tell_of_the_same_request(line: dict[str, object]) -> None:
    entry = json_entry(json.dumps(line).encode())
    assert (entry.time_us, entry.status) == (TIME_US, 200)
    assert (entry.facts.method, entry.facts.target, entry.facts.peer) == ("GET", "/a?b=1", "203.0.113.9")


def test_json_headers_are_read_in_any_case_with_all_their_values() -> None:
    line = {"time": 1, "method": "GET", "path": "/", "host": "a.example", "http_x_user_id": "alice", "user_agent": "-",
            "headers": {"X-Tenant": ["one", "two"], "X-Plan": "free", "X-None": None}}  # fmt: skip
    entry = json_entry(json.dumps(line).encode())
    assert field(entry, "x-tenant") == ("one", "two")
    assert field(entry, "X-USER-ID") == ("alice",)
    assert field(entry, "Host") == ("a.example",)
    assert field(entry, "X-Plan") == ("free",)
    assert field(entry, "User-Agent") == field(entry, "X-None") == ()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "is not valid JSON"),
        (b"[1]", "is JSON, but no object"),
        (b'{"a": 1}', "its time cannot be read"),
        (b'{"time": 1, "level": "info"}', "holds no request: neither method and path nor a request line"),
        (b'{"time": 1, "method": 7, "path": []}', "holds no request: neither method and path nor a request line"),
        (b'{"time": true, "method": "GET", "path": "/"}', "its time cannot be read"),
        (b'{"time": [], "method": "GET", "path": "/"}', "its time cannot be read"),
    ],
)
def test_a_json_line_that_is_no_request_says_why(line: bytes, reason: str) -> None:
    with pytest.raises(BadLine) as raised:
        json_entry(line)
    assert str(raised.value) == reason


# Times


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
def test_a_moment_is_read_in_the_forms_that_logs_use(value: object, us: int, zone_known: bool) -> None:
    assert moment_of(value) == (us, zone_known)


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, 1e30, float("inf"), "", "soon", "2000-13-01", "29/Feb/2001:00:00:00 +0000", {}, "1" * 21],
)
def test_what_is_no_moment_is_an_error(value: object) -> None:
    with pytest.raises(ValueError, match="its time cannot be read"):
        moment_of(value)


def test_a_leap_second_is_the_second_after_it() -> None:
    assert clf_moment("31/Dec/2016:23:59:60 +0000") == clf_moment("01/Jan/2017:00:00:00 +0000")


# Clients


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
        ("-", "-", False),
        ("", "", False),
    ],
)
def test_a_client_is_read_without_its_port(logged: str, read: str, known: bool) -> None:
    assert (address(logged), is_address(address(logged))) == (read, known)


# The reader


def reader_of(data: bytes, form: Format = Format.AUTO) -> tuple[LogReader, list[Entry]]:
    reader = LogReader(io.BytesIO(data), form, lambda _: None)
    return reader, list(reader.entries())


def test_bad_lines_are_counted_by_reason_and_the_first_are_shown_safely() -> None:
    reader, entries = reader_of(b"\x1b[31mred\n" * 7 + COMBINED.encode() + b"\r\n\n{}\n")
    assert len(entries) == reader.requests == 1
    assert reader.lines == 10
    assert reader.bad == {"is not in the combined format": 7, "its time cannot be read": 1}
    assert [line.number for line in reader.first_bad] == [1, 2, 3, 4, 5]
    assert reader.first_bad[0].beginning == "\\x1b[31mred"


def test_lines_of_both_kinds_may_be_mixed_unless_one_was_asked_for() -> None:
    mixed = COMBINED.encode() + b'\n{"time": 1000000000, "method": "GET", "path": "/"}\n'
    assert len(reader_of(mixed)[1]) == 2
    assert len(reader_of(mixed, Format.JSON)[1]) == 1
    assert len(reader_of(mixed, Format.COMBINED)[1]) == 1
    assert len(reader_of(mixed, Format.VHOST)[1]) == 0


def test_times_that_step_back_and_unknown_zones_are_counted() -> None:
    later, earlier = COMBINED, COMBINED.replace("13:55:36 -0700", "13:55:30 PDT")
    reader, entries = reader_of(f"{later}\n{earlier}\n{later}".encode())
    assert (reader.out_of_order, reader.zone_unknown) == (1, 1)
    assert (reader.first_us, reader.last_us) == (entries[1].time_us, entries[0].time_us)


NAMES = st.sampled_from(["time", "method", "path", "request", "headers", "host", "client", "status", "http_a", "query"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, JSON, max_size=8))
def test_any_json_object_is_an_entry_or_a_bad_line(line: dict[str, object]) -> None:
    with contextlib.suppress(BadLine):
        json_entry(json.dumps(line).encode())


@given(st.lists(st.text(max_size=60) | st.sampled_from([COMBINED, COMBINED[:-3], "{}"]), max_size=5))
def test_any_text_is_read_without_a_fault(lines: list[str]) -> None:
    reader, entries = reader_of("\n".join(lines).encode("utf-8", "surrogatepass"))
    assert len(entries) + reader.bad.total() <= reader.lines
