"""The PROXY protocol: tables of headers, random headers, and a sidecar behind a load balancer that sends them."""

import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidegate.config import ConfigError, parse
from sidegate.edge.failures import BadMessage
from sidegate.edge.proxy_header import ProxyHeader, proxy_header

from tests.raw_client import RawClient, get, request
from tests.recorder import Recorder
from tests.servers import StoreServer
from tests.sidecar import Sidecar, configuration, spent

V2 = b"\r\n\r\n\x00\r\nQUIT\n"


def version_2(source: str, destination: str = "", *, command: int = 0x21, family: int = 0, more: bytes = b"") -> bytes:
    address = ip_address(source)
    destination = destination or ("192.0.2.1" if address.version == 4 else "2001:db8::1")
    family = family or (0x11 if address.version == 4 else 0x21)
    body = address.packed + ip_address(destination).packed + (4711).to_bytes(2, "big") + (80).to_bytes(2, "big") + more
    return V2 + bytes((command, family)) + len(body).to_bytes(2, "big") + body


VALID = [
    (b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n", "203.0.113.7"),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 80\r\n", "2001:db8::7"),
    (b"PROXY TCP6 2001:DB8:0:0::7 ::1 0 65535\r\n", "2001:db8::7"),
    (b"PROXY UNKNOWN\r\n", ""),
    (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", ""),
    (version_2("203.0.113.7"), "203.0.113.7"),
    (version_2("2001:db8::7"), "2001:db8::7"),
    (version_2("203.0.113.7", more=b"\x03\x00\x04abcd"), "203.0.113.7"),
    (version_2("203.0.113.7", command=0x20), ""),
    (V2 + b"\x20\x00\x00\x00", ""),
    (V2 + b"\x21\x00\x00\x00", ""),
    (V2 + b"\x21\x31\x00\xd8" + bytes(216), ""),
]
INVALID = [
    b"GET / HTTP/1.1\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\n" + b"x" * 80,
    b"PROXY  TCP4 203.0.113.7 192.0.2.1 4711 80\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 4711\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 04711 80\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 70000 80\r\n",
    b"PROXY TCP4 203.0.113.07 192.0.2.1 4711 80\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 80\r\n",
    b"PROXY TCP6 203.0.113.7 192.0.2.1 4711 80\r\n",
    b"PROXY UDP4 203.0.113.7 192.0.2.1 4711 80\r\n",
    b"PROXY UNKNOWN\x00\r\n",
    b"PROXY " + b"x" * 200,
    b"proxy TCP4 203.0.113.7 192.0.2.1 4711 80\r\n",
    V2 + b"\x11\x11\x00\x0c" + bytes(12),  # version 1 in the binary form
    V2 + b"\x22\x11\x00\x0c" + bytes(12),  # an unknown command
    V2 + b"\x21\x12\x00\x0c" + bytes(12),  # UDP
    V2 + b"\x21\x11\x00\x0b" + bytes(11),  # too short for its addresses
    V2 + b"\x21\x11\xff\xff",
]


@pytest.mark.parametrize(("header", "source"), VALID)
def test_a_header_gives_the_address_of_the_client(header: bytes, source: str) -> None:
    assert proxy_header(header) == ProxyHeader(source, len(header))
    assert proxy_header(header + b"GET /") == ProxyHeader(source, len(header))
    for cut in range(len(header)):
        assert proxy_header(header[:cut]) is None


@pytest.mark.parametrize("header", INVALID)
def test_an_invalid_header_is_refused(header: bytes) -> None:
    with pytest.raises(BadMessage):
        proxy_header(header)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid header with some bytes replaced, removed or added."""
    data = bytearray(draw(st.sampled_from(VALID))[0])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(data)


@given(st.one_of(mutated(), st.binary(max_size=200).map(lambda tail: V2 + tail), st.binary(max_size=120)))
def test_any_bytes_are_a_header_or_refused_however_they_are_cut(data: bytes) -> None:
    def read(part: bytes) -> ProxyHeader | str | None:
        try:
            return proxy_header(part)
        except BadMessage:
            return "refused"

    whole = read(data)
    if isinstance(whole, ProxyHeader):
        assert whole.length <= len(data)
        assert not whole.source or str(ip_address(whole.source)) == whole.source
    for cut in range(len(data)):
        part = read(data[:cut])
        assert part is None or part == whole or (isinstance(whole, ProxyHeader) and whole.length <= cut)


@pytest.fixture(scope="module")
def shared_balanced(shared_store_server: StoreServer, shared_recorder: Recorder) -> Iterator[Sidecar]:
    listen = {"proxy_protocol": ["127.0.0.1"], "host": ["127.0.0.1", "127.0.0.2"], "header_timeout": "300ms"}
    config = configuration(shared_store_server.url, shared_recorder.url, listen=listen)
    with Sidecar(config) as sidecar:
        yield sidecar


@pytest.fixture
def balanced(store_server: StoreServer, recorder: Recorder, shared_balanced: Sidecar) -> Sidecar:
    return shared_balanced


@pytest.mark.parametrize(("header", "source"), VALID)
def test_the_address_of_the_header_is_limited(
    header: bytes, source: str, balanced: Sidecar, recorder: Recorder, store_server: StoreServer
) -> None:
    with RawClient(balanced.port) as client:
        client.send(header + request("/x"))
        assert client.reply().status == 200
        assert client.get("/y", "X-Forwarded-For: 9.9.9.9").status == 200
    seen = (source or "127.0.0.1").encode()
    assert [received.value("x-forwarded-for") for received in recorder.requests] == [seen, seen]
    (bucket,) = spent(store_server)
    assert ("2001" in bucket) == (":" in source)


def test_a_header_may_arrive_in_pieces(balanced: Sidecar, recorder: Recorder) -> None:
    with RawClient(balanced.port) as client:
        for at, byte in enumerate(VALID[5][0]):
            client.send(bytes((byte,)))
            assert at < 30
        client.send(request("/x"))
        assert client.reply().status == 200
    assert recorder.only().value("x-forwarded-for") == b"203.0.113.7"


@pytest.mark.parametrize("header", INVALID)
def test_a_load_balancer_without_a_valid_header_is_refused(
    header: bytes, balanced: Sidecar, recorder: Recorder
) -> None:
    with RawClient(balanced.port) as client:
        client.send(header + request("/x"))
        assert client.reply().status == 400
        assert client.ends()
    assert recorder.requests == []


@pytest.mark.slow
def test_a_header_that_does_not_come_in_time_is_answered_408(balanced: Sidecar) -> None:
    with RawClient(balanced.port) as client:
        client.send(b"PROXY TCP4 ")
        assert client.reply().status == 408
        assert client.ends()


def test_other_peers_are_refused_with_a_header_and_served_without(balanced: Sidecar, recorder: Recorder) -> None:
    for header, status in ((b"", 200), (VALID[0][0], 400), (VALID[5][0], 400)):
        with socket.socket() as connection:
            connection.settimeout(30)
            connection.bind(("127.0.0.2", 0))  # outside of the named network
            connection.connect(("127.0.0.2", balanced.port))
            connection.sendall(header + request("/x", "Connection: close"))
            answer = b""
            while data := connection.recv(65536):
                answer += data
            assert answer.startswith(b"HTTP/1.1 %d" % status)
    assert recorder.only().value("x-forwarded-for") == b"127.0.0.2"


def test_without_the_setting_a_header_is_no_request(sidecar: Sidecar, recorder: Recorder) -> None:
    for header, _ in VALID:
        with RawClient(sidecar.port) as client:
            client.send(header + request("/x"))
            assert client.reply().status == 400
    assert recorder.requests == []
    assert get(sidecar.port).status == 200


def test_a_fault_of_the_setting_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("listen: {proxy_protocol: [10.0.0.1/8]}", "c.yaml", {})
    assert "has bits beyond its prefix" in str(caught.value.faults[0])
