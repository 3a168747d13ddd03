"""Connections before HTTP: PROXY headers in front of TLS, and what bounds connections that send neither."""

import contextlib
import random
import socket
import ssl
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Self

import pytest
import trustme

from tests.edge.test_proxy_header import INVALID, VALID
from tests.raw_client import RawClient, get, request
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer
from tests.sidecar import Config, Sidecar, configuration
from tests.telemetry.scraped import scraped

pytestmark = pytest.mark.slow

HEADER = VALID[0][0]


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], ssl.SSLContext]:
    """Settings of a certificate, and a context of a client that trusts it."""
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(folder / "tls.crt"))
    issued.private_key_pem.write_to_path(str(folder / "tls.key"))
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    return {"cert_file": str(folder / "tls.crt"), "key_file": str(folder / "tls.key")}, context


def arriving(store: StoreServer, recorder: Recorder, **listen: object) -> Config:
    hosts = ["127.0.0.1", "127.0.0.2"]
    return configuration(store.url, recorder.url, listen={"host": hosts, "proxy_protocol": ["127.0.0.1"], **listen})


@pytest.fixture(scope="module")
def shared_balanced(
    shared_store_server: StoreServer, shared_recorder: Recorder, trusted: tuple[dict[str, str], ssl.SSLContext]
) -> Iterator[Sidecar]:
    config = arriving(shared_store_server, shared_recorder, tls=trusted[0], header_timeout="3s")
    with Sidecar(config) as sidecar:
        yield sidecar


@pytest.fixture
def balanced(store_server: StoreServer, recorder: Recorder, shared_balanced: Sidecar) -> Sidecar:
    return shared_balanced


class TlsPeer:
    """TLS over a socket; the test controls the size and time of each write."""

    def __init__(self, port: int, context: ssl.SSLContext, host: str = "127.0.0.1") -> None:
        self.socket = socket.socket()
        self.socket.settimeout(30)
        self.socket.bind((host, 0))
        self.socket.connect((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def hello(self) -> bytes:
        """The ClientHello, not sent yet."""
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._outgoing.read()

    def shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush_and_read()
            else:
                return

    def get(self, path: str) -> bytes:
        """The answer to a request, up to its end."""
        self._tls.write(request(path, "Connection: close"))
        answer = b""
        with contextlib.suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):
            while True:
                try:
                    piece = self._tls.read(65536)
                except ssl.SSLWantReadError:
                    self._flush_and_read()
                else:
                    if not piece:
                        break
                    answer += piece
        return answer

    def _flush_and_read(self) -> None:
        self.socket.sendall(self._outgoing.read())
        if data := self.socket.recv(65536):
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def ends(client: socket.socket) -> bool:
    """Whether the other side ends the connection without a byte."""
    try:
        return client.recv(100) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(("header", "source"), VALID)
def test_header_and_client_hello_may_come_in_one_segment(
    header: bytes,
    source: str,
    balanced: Sidecar,
    recorder: Recorder,
    trusted: tuple[dict[str, str], ssl.SSLContext],
) -> None:
    with TlsPeer(balanced.port, trusted[1]) as peer:
        peer.socket.sendall(header + peer.hello())
        peer.shake_hands()
        assert peer.get("/x").startswith(b"HTTP/1.1 200")
    received = recorder.only()
    assert received.value("x-forwarded-for") == (source or "127.0.0.1").encode()
    assert received.value("x-forwarded-proto") == b"https"


@pytest.mark.parametrize("seed", range(6))
def test_header_and_client_hello_may_be_cut_anywhere(
    seed: int, balanced: Sidecar, recorder: Recorder, trusted: tuple[dict[str, str], ssl.SSLContext]
) -> None:
    choice = random.Random(seed)
    header, source = choice.choice(VALID)
    with TlsPeer(balanced.port, trusted[1]) as peer:
        sent = header + peer.hello()
        cuts = sorted({0, len(sent), *choice.sample(range(1, len(sent)), 5), len(header) + choice.choice((-1, 0, 1))})
        for begin, end in pairwise(cuts):
            peer.socket.sendall(sent[begin:end])
            time.sleep(0.005)
        peer.shake_hands()
        assert peer.get("/x").startswith(b"HTTP/1.1 200")
    assert recorder.only().value("x-forwarded-for") == (source or "127.0.0.1").encode()


def test_peers_of_other_networks_begin_with_tls(
    balanced: Sidecar, recorder: Recorder, trusted: tuple[dict[str, str], ssl.SSLContext]
) -> None:
    for _ in range(20):  # the first bytes may arrive before or after the connection is looked at
        with TlsPeer(balanced.port, trusted[1], "127.0.0.2") as peer:
            peer.socket.sendall(peer.hello())
            peer.shake_hands()
            assert peer.get("/x").startswith(b"HTTP/1.1 200")
    with TlsPeer(balanced.port, trusted[1], "127.0.0.2") as peer:
        peer.socket.sendall(HEADER + peer.hello())
        assert peer.socket.recv(100)[:1] in {b"", b"\x15"}  # closed, perhaps with an alert (RFC 8446 §6)
    assert {received.value("x-forwarded-for") for received in recorder.requests} == {b"127.0.0.2"}
    assert len(recorder.requests) == 20


@pytest.mark.parametrize("header", [b"", *INVALID])
def test_a_load_balancer_without_a_valid_header_gets_no_handshake(
    header: bytes, balanced: Sidecar, recorder: Recorder, trusted: tuple[dict[str, str], ssl.SSLContext]
) -> None:
    with TlsPeer(balanced.port, trusted[1]) as peer:
        peer.socket.sendall(header + peer.hello())
        assert ends(peer.socket)
    assert recorder.requests == []


def test_bytes_at_random_after_a_header_end_the_connection_and_nothing_else(
    balanced: Sidecar, recorder: Recorder, trusted: tuple[dict[str, str], ssl.SSLContext]
) -> None:
    choice = random.Random(14)
    for _ in range(40):
        with TlsPeer(balanced.port, trusted[1]) as peer:
            hello = bytearray(peer.hello())
            for _ in range(choice.randint(1, 4)):
                hello[choice.randrange(len(hello))] = choice.randrange(256)
            peer.socket.sendall(choice.choice(VALID)[0] + bytes(hello[: choice.randint(1, len(hello))]))
            if choice.random() < 0.5:
                peer.socket.shutdown(socket.SHUT_WR)
                peer.socket.recv(65536)
    with TlsPeer(balanced.port, trusted[1]) as peer:
        peer.socket.sendall(HEADER + peer.hello())
        peer.shake_hands()
        assert peer.get("/x").startswith(b"HTTP/1.1 200")
    eventually(lambda: connections(balanced) == 0, "no connection left")
    assert len(recorder.requests) == 1


def connections(sidecar: Sidecar) -> int:
    return int(scraped(sidecar)["sidegate_client_connections"].total())


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4 ", HEADER, HEADER + b"\x16\x03\x01"])
def test_what_does_not_come_in_time_ends_the_connection(sent: bytes, balanced: Sidecar) -> None:
    with socket.create_connection(("127.0.0.1", balanced.port), 30) as client:
        client.sendall(sent)
        eventually(lambda: connections(balanced) == 1, "an open connection")
        assert ends(client)
    eventually(lambda: connections(balanced) == 0, "no open connection")


@pytest.mark.parametrize("with_tls", [True, False])
def test_arriving_connections_count_in_max_connections(
    with_tls: bool, store_server: StoreServer, recorder: Recorder, trusted: tuple[dict[str, str], ssl.SSLContext]
) -> None:
    tls = {"tls": trusted[0]} if with_tls else {}
    with Sidecar(arriving(store_server, recorder, max_connections=4, **tls)) as sidecar:
        held = [socket.create_connection(("127.0.0.1", sidecar.port), 30) for _ in range(4)]
        held[0].sendall(b"PROXY ")
        held[1].sendall(HEADER)
        eventually(lambda: connections(sidecar) == 4, "four connections")
        with socket.create_connection(("127.0.0.1", sidecar.port), 30) as fifth:
            if with_tls:
                assert ends(fifth)
            else:
                assert fifth.recv(100).startswith(b"HTTP/1.1 503")
        assert scraped(sidecar)["sidegate_errors_total"][("too_many_connections",)] == 1
        held[0].close()
        eventually(lambda: connections(sidecar) == 3, "room")
        if with_tls:
            with TlsPeer(sidecar.port, trusted[1]) as peer:
                peer.socket.sendall(HEADER + peer.hello())
                peer.shake_hands()
                assert peer.get("/x").startswith(b"HTTP/1.1 200")
        else:
            with RawClient(sidecar.port) as client:
                client.send(HEADER + request("/x"))
                assert client.reply().status == 200
        for each in held[1:]:
            each.close()


@pytest.mark.parametrize("with_tls", [True, False])
def test_arriving_connections_do_not_delay_the_end(
    with_tls: bool, store_server: StoreServer, recorder: Recorder, trusted: tuple[dict[str, str], ssl.SSLContext]
) -> None:
    tls = {"tls": trusted[0]} if with_tls else {}
    with Sidecar(arriving(store_server, recorder, header_timeout="60s", drain_timeout="60s", **tls)) as sidecar:
        held = [socket.create_connection(("127.0.0.1", sidecar.port), 30) for _ in range(6)]
        begun = HEADER + b"\x16" if with_tls else HEADER
        for each, sent in zip(held, (b"", b"PROXY ", HEADER, begun, b"\r\n\r\n", HEADER), strict=True):
            each.sendall(sent)
        eventually(lambda: connections(sidecar) == 6, "six connections")
        sidecar.ask_to_stop()
        sidecar.wait_for_event("stopped")
        assert sidecar.events("stopped")[0]["cut_off"] == 0
        for each in held:
            assert ends(each)
            each.close()


def test_a_header_on_a_unix_socket_comes_before_tls(
    store_server: StoreServer, recorder: Recorder, trusted: tuple[dict[str, str], ssl.SSLContext], tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    config = configuration(
        store_server.url, recorder.url, listen={"socket": path, "proxy_protocol": ["127.0.0.0/8"], "tls": trusted[0]}
    )
    del config["listen"]["host"], config["listen"]["port"]
    with Sidecar(config), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(path)
        client.sendall(HEADER)
        with trusted[1].wrap_socket(client, server_hostname="localhost") as tls:
            tls.sendall(request("/x", "Connection: close"))
            assert tls.recv(65536).startswith(b"HTTP/1.1 200")
    assert recorder.only().value("x-forwarded-for") == b"203.0.113.7"
    assert not Path(path).exists()


def test_without_tls_bytes_behind_a_header_are_the_request(store_server: StoreServer, recorder: Recorder) -> None:
    config = configuration(store_server.url, recorder.url, listen={"proxy_protocol": ["127.0.0.1"]})
    with Sidecar(config) as sidecar:
        with RawClient(sidecar.port) as client:
            client.send(HEADER + request("/1") + request("/2"))
            assert [client.reply().status for _ in range(2)] == [200, 200]
        with pytest.raises(AssertionError):
            assert get(sidecar.port).status == 200
