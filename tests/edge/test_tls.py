"""TLS towards clients, operators and the application; certificates that are renewed while the sidecar runs."""

import contextlib
import http.client
import json
import re
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from sidegate.config import ConfigError, parse
from sidegate.edge.client_certificate import certificate_name

from tests.raw_client import RawClient, get
from tests.recorder import Act, Recorder, Zeros, eventually
from tests.servers import StoreServer, free_port
from tests.sidecar import Config, Sidecar, configuration, run_command, spent

pytestmark = pytest.mark.slow


class Authority:
    """An authority, and files of certificates that it issues."""

    def __init__(self, folder: Path, name: str) -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self.file = folder / f"{name}-ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, name: str, *hosts: str) -> dict[str, str]:
        """Settings of a new certificate, whose files replace those of the same name."""
        issued = self._ca.issue_cert(*(hosts or ("localhost", "127.0.0.1")))
        cert_file, key_file = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        parts = [blob.bytes() for blob in issued.cert_chain_pems]
        for file, content in ((key_file, issued.private_key_pem.bytes()), (cert_file, b"".join(parts))):
            new = file.with_suffix(".new")
            new.write_bytes(content)
            new.replace(file)
        return {"cert_file": str(cert_file), "key_file": str(key_file)}

    def client(self, own: dict[str, str] | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.file))
        context.set_alpn_protocols(["h2", "http/1.1"])
        if own is not None:
            context.load_cert_chain(own["cert_file"], own["key_file"])
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "server")


def tls_client(port: int, context: ssl.SSLContext, **options: Any) -> RawClient:
    """A raw client within TLS. Raises ssl.SSLError where the handshake fails."""
    client = RawClient(port, **options)
    try:
        client._socket = context.wrap_socket(client._socket, server_hostname="localhost")
    except OSError:
        client._socket.close()
        raise
    return client


def serial(port: int, context: ssl.SSLContext) -> str:
    with tls_client(port, context) as client:
        assert isinstance(client._socket, ssl.SSLSocket)
        certificate = client._socket.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])


def serving(store: StoreServer, recorder: Recorder, tls: dict[str, str], **sections: Any) -> Config:
    return configuration(store.url, recorder.url, listen={"tls": tls}, **sections)


def test_clients_speak_http_1_1_within_tls(store_server: StoreServer, recorder: Recorder, authority: Authority) -> None:
    with Sidecar(serving(store_server, recorder, authority.issue("a"))) as sidecar:
        with tls_client(sidecar.port, authority.client()) as client:
            assert isinstance(client._socket, ssl.SSLSocket)
            assert client._socket.selected_alpn_protocol() == "http/1.1"
            assert client.get("/x", "X-Forwarded-Proto: ftp").status == 200
            assert client.get("/tight/a").status == 200
            assert client.get("/a/../b").status == 400
        with RawClient(sidecar.port) as plain:
            plain.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert plain.ends()
        old = authority.client()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with tls_client(sidecar.port, old) as client:
            assert client.get().status == 200
    received = recorder.requests[0]
    assert received.value("x-forwarded-proto") == b"https"
    assert received.value("forwarded") == b'for=127.0.0.1;host="app.test";proto=https'


def test_bodies_of_any_size_and_slow_readers_work_within_tls(
    store_server: StoreServer, recorder: Recorder, authority: Authority
) -> None:
    size = 5 * 2**20
    recorder.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, Zeros(size))
    with (
        Sidecar(serving(store_server, recorder, authority.issue("a"))) as sidecar,
        tls_client(sidecar.port, authority.client(), receive_buffer_bytes=4096) as client,
    ):
        client.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        client.send(bytes(size))
        reply = client.reply()
        assert (reply.status, len(reply.body), reply.complete) == (200, size, True)
        assert client.get(method="HEAD").status == 200
    assert recorder.requests[0].body_bytes == size


def test_a_websocket_works_within_tls(store_server: StoreServer, recorder: Recorder, authority: Authority) -> None:
    switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    recorder.answer(switching, Act.ECHO)
    fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a\r\n"
    with Sidecar(serving(store_server, recorder, authority.issue("a"))) as sidecar:
        with tls_client(sidecar.port, authority.client()) as client:
            client.send(f"GET /ws HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode())
            assert client.reply().status == 101
            client.send(b"hello")
            assert client.read(5) == b"hello"
        recorder.close_all()


class Chained:
    """A server certificate behind an intermediate authority, replaced in the ways that tools use."""

    def __init__(self, folder: Path) -> None:
        self._root = trustme.CA()
        self._folder = folder
        self._count = 0
        self.root_file = folder / "root.pem"
        self._root.cert_pem.write_to_path(str(self.root_file))
        self.cert_file, self.key_file = folder / "tls.crt", folder / "tls.key"

    def issue(self) -> tuple[bytes, bytes, bytes]:
        """A new certificate, that of its authority, and the key."""
        issued = self._root.create_child_ca().issue_cert("localhost")
        leaf, *authorities = (blob.bytes() for blob in issued.cert_chain_pems)
        self._count += 1
        return leaf, b"".join(authorities), issued.private_key_pem.bytes()

    def write_in_place(self) -> None:
        """As `cp` does; the intermediate authority's certificate comes two polls later."""
        leaf, authorities, key = self.issue()
        self.key_file.write_bytes(key)
        with self.cert_file.open("wb", buffering=0) as file:
            file.write(leaf)
            time.sleep(0.25)
            file.write(authorities)

    def rename(self) -> None:
        """Each file by a rename, the key a poll later."""
        leaf, authorities, key = self.issue()
        for file, content in ((self.cert_file, leaf + authorities), (self.key_file, key)):
            new = self._folder / "new"
            new.write_bytes(content)
            new.replace(file)
            time.sleep(0.15)

    def relink(self) -> None:
        """As certbot does: each link is removed, then made anew."""
        leaf, authorities, key = self.issue()
        for file, content in ((self.cert_file, leaf + authorities), (self.key_file, key)):
            target = self._folder / f"{file.stem}{self._count}{file.suffix}"
            target.write_bytes(content)
            file.unlink()
            time.sleep(0.15)
            file.symlink_to(target)

    def swap_folder(self) -> None:
        """As Kubernetes does: the files are links into a folder that is itself a link, which is replaced."""
        leaf, authorities, key = self.issue()
        folder = self._folder / f"..{self._count}"
        folder.mkdir()
        (folder / "tls.crt").write_bytes(leaf + authorities)
        (folder / "tls.key").write_bytes(key)
        new = self._folder / "..new"
        new.symlink_to(folder)
        new.replace(self._folder / "..data")
        for file in (self.cert_file, self.key_file):
            if not file.is_symlink() or file.readlink().parent != Path("..data"):
                (self._folder / "..link").symlink_to(Path("..data") / file.name)
                (self._folder / "..link").replace(file)


@pytest.mark.parametrize("way", ["write_in_place", "rename", "relink", "swap_folder"])
def test_a_renewed_certificate_is_used_within_a_second_and_no_handshake_fails(
    way: str, store_server: StoreServer, recorder: Recorder, tmp_path: Path
) -> None:
    files = Chained(tmp_path)
    leaf, authorities, key = files.issue()
    files.cert_file.write_bytes(leaf + authorities)
    files.key_file.write_bytes(key)
    if way == "swap_folder":
        files.swap_folder()
    tls = {"cert_file": str(files.cert_file), "key_file": str(files.key_file)}
    context = ssl.create_default_context(cafile=str(files.root_file))
    failures: list[BaseException] = []
    handshakes, stop = 0, threading.Event()
    with Sidecar(serving(store_server, recorder, tls)) as sidecar:
        before = serial(sidecar.port, context)
        kept = tls_client(sidecar.port, context)

        def connect_all_the_time() -> None:
            nonlocal handshakes
            while not stop.is_set():
                try:
                    serial(sidecar.port, context)
                except OSError as error:
                    failures.append(error)
                handshakes += 1

        thread = threading.Thread(target=connect_all_the_time)
        thread.start()
        took_s = []
        for number in range(3):
            getattr(files, way)()
            began_s = time.monotonic()
            sidecar.wait_for_event("certificate_renewed", number + 1)
            took_s.append(time.monotonic() - began_s)
            now = serial(sidecar.port, context)
            assert now != before
            before = now
        stop.set()
        thread.join()
        assert kept.get().status == 200
        kept.__exit__(None, None, None)
    assert failures == []
    assert handshakes > 3
    # The quickest: each one alone can be late on a busy machine.
    assert min(took_s) < 1


def test_a_renewed_authority_of_the_application_is_used(
    store_server: StoreServer, authority: Authority, tmp_path: Path
) -> None:
    own = authority.issue("app", "localhost")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(Authority(tmp_path, "former").file.read_bytes())
    with tls_application(own) as port:
        tls = {"ca_file": str(trusted)}
        with Sidecar(configuration(store_server.url, f"https://localhost:{port}", upstream=tls)) as sidecar:
            assert get(sidecar.port).status == 502
            shutil.copy(authority.file, trusted)
            (renewed,) = sidecar.wait_for_event("certificate_renewed")
            assert renewed["file"] == str(trusted)
            assert get(sidecar.port).status == 200
            trusted.write_bytes(Authority(tmp_path, "later").file.read_bytes())
            sidecar.wait_for_event("certificate_renewed", 2)
            assert get(sidecar.port).status == 502, "the former authority counts no more"


def test_files_that_do_not_fit_together_change_nothing(
    store_server: StoreServer, recorder: Recorder, authority: Authority
) -> None:
    used, other = authority.issue("a"), authority.issue("b")
    context = authority.client()
    with Sidecar(serving(store_server, recorder, used)) as sidecar:
        before = serial(sidecar.port, context)
        shutil.copy(other["cert_file"], used["cert_file"])
        (refused,) = sidecar.wait_for_event("certificate_refused")
        assert refused["reason"].startswith(f"{used['cert_file']}, {used['key_file']}: no certificate and its key")
        assert serial(sidecar.port, context) == before
        shutil.copy(other["key_file"], used["key_file"])
        sidecar.wait_for_event("certificate_renewed")
        assert serial(sidecar.port, context) != before
        sidecar.may_complain = True


def test_clients_need_a_certificate_where_an_authority_is_named(
    store_server: StoreServer, recorder: Recorder, authority: Authority, tmp_path: Path
) -> None:
    people, strangers = Authority(tmp_path, "people"), Authority(tmp_path, "strangers")
    tls = {**authority.issue("a"), "client_ca_file": str(people.file), "min_version": "1.2"}
    with Sidecar(serving(store_server, recorder, tls)) as sidecar:
        with tls_client(sidecar.port, authority.client(people.issue("alice", "alice"))) as client:
            assert client.get().status == 200
        for own in (None, strangers.issue("eve", "eve")):
            with pytest.raises(OSError):
                refused(sidecar.port, authority.client(own))
    assert len(recorder.requests) == 1


def test_failed_handshakes_are_counted_by_reason(
    store_server: StoreServer, recorder: Recorder, authority: Authority, tmp_path: Path
) -> None:
    people, strangers = Authority(tmp_path, "people"), Authority(tmp_path, "strangers")
    tls = {**authority.issue("a"), "client_ca_file": str(people.file), "min_version": "1.3"}
    config = serving(store_server, recorder, tls)
    config["listen"]["header_timeout"] = "1s"
    old = authority.client(people.issue("old", "old"))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    mistrusting = strangers.client(people.issue("alice", "alice"))
    with Sidecar(config) as sidecar:

        def connected() -> socket.socket:
            return socket.create_connection(("127.0.0.1", sidecar.port), 30)

        for context in (authority.client(), authority.client(strangers.issue("eve", "eve")), old, mistrusting):
            with pytest.raises(OSError):
                refused(sidecar.port, context)
        with connected() as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            with contextlib.suppress(OSError):
                plain.recv(1024)
        connected().close()
        with connected() as silent:
            assert silent.recv(1024) == b""
        with tls_client(sidecar.port, authority.client(people.issue("bob", "bob"))) as client:
            assert client.get().status == 200

        def counts() -> dict[str, int]:
            text = get(sidecar.admin_port, "/metrics").body.decode()
            found = re.findall(r'sidegate_tls_handshake_failures_total{reason="(\w+)"} (\d+)', text)
            return {reason: int(count) for reason, count in found}

        one_each = ("no_certificate", "untrusted_certificate", "no_common_version", "refused_by_client", "not_tls")
        expected = {**dict.fromkeys((*one_each, "closed_by_client", "timeout"), 1), "other": 0}
        eventually(lambda: counts() == expected, "the counts", lambda: str(counts()))


def test_the_name_in_a_certificate_limits_and_matches(
    store_server: StoreServer, recorder: Recorder, authority: Authority, tmp_path: Path
) -> None:
    people = Authority(tmp_path, "people")
    tls = {**authority.issue("a"), "client_ca_file": str(people.file)}
    each = {"name": "each", "key": "client_cert", "limit": "1/day", "burst": 2}
    batch = {"name": "batch", "key": "path", "limit": "1/day", "burst": 1, "match": {"client_cert": "batch.*"}}
    config = serving(store_server, recorder, tls)
    config["policies"] = [each, batch]
    with Sidecar(config) as sidecar:
        statuses = {}
        for name in ("alice.example", "batch.example"):
            own = authority.client(people.issue(name, name.upper()))
            with tls_client(sidecar.port, own) as client:
                statuses[name] = [client.get("/x").status for _ in range(3)]
    assert statuses == {"alice.example": [200, 200, 429], "batch.example": [200, 429, 429]}
    assert spent(store_server, "each", 2) == {"alice.example": 2, "batch.example": 1}


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_within_tls_end_before_the_sidecar_does(
    workers: int, store_server: StoreServer, recorder: Recorder, authority: Authority
) -> None:
    recorder.always(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nda", 1.0, b"ta")
    tls = {"tls": authority.issue("a"), "workers": workers}
    context = authority.client()
    with Sidecar(configuration(store_server.url, recorder.url, listen=tls)) as sidecar:
        clients = [tls_client(sidecar.port, context) for _ in range(8)]
        for client in clients:
            client.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        recorder.wait_for(8)
        sidecar.ask_to_stop()
        for client in clients:
            reply = client.reply()
            assert (reply.status, reply.body, reply.complete) == (200, b"data", True)
            client.__exit__(None, None, None)


def two_authorities(server: Authority, folder: Path) -> tuple[Path, Authority, ssl.SSLContext, ssl.SSLContext]:
    """A file with two authorities of clients, the second one, and the context of a client of each."""
    people, others = Authority(folder, "people"), Authority(folder, "others")
    trusted = folder / "trusted.pem"
    trusted.write_bytes(people.file.read_bytes() + others.file.read_bytes())
    former, present = server.client(people.issue("alice")), server.client(others.issue("bob"))
    former.maximum_version = ssl.TLSVersion.TLSv1_2  # its handshake fails as a whole
    return trusted, others, former, present


def test_a_removed_authority_of_clients_is_refused_also_in_a_resumed_session(
    store_server: StoreServer, recorder: Recorder, authority: Authority, tmp_path: Path
) -> None:
    trusted, others, former, present = two_authorities(authority, tmp_path)
    with Sidecar(serving(store_server, recorder, {**authority.issue("a"), "client_ca_file": str(trusted)})) as sidecar:
        with tls_client(sidecar.port, former) as client, tls_client(sidecar.port, present) as other:
            assert (client.get().status, other.get().status) == (200, 200)
            assert isinstance(client._socket, ssl.SSLSocket)
            session = client._socket.session
            new = tmp_path / "new.pem"
            new.write_bytes(others.file.read_bytes())
            new.replace(trusted)
            sidecar.wait_for_event("certificate_renewed")
            assert client.get().status == 200, "an open connection stays"
        with socket.create_connection(("127.0.0.1", sidecar.port), 30) as plain, pytest.raises(OSError):
            former.wrap_socket(plain, server_hostname="localhost", session=session)
        with tls_client(sidecar.port, present) as client:
            assert client.get().status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_resumed_session_keeps_the_name_of_its_certificate(
    version: ssl.TLSVersion, store_server: StoreServer, recorder: Recorder, authority: Authority, tmp_path: Path
) -> None:
    people = Authority(tmp_path, "people")
    config = serving(store_server, recorder, {**authority.issue("a"), "client_ca_file": str(people.file)})
    config["policies"] = [{"name": "each", "key": "client_cert", "limit": "1/day", "burst": 9}]
    context = authority.client(people.issue("alice", "alice.example"))
    context.maximum_version = version
    session, reused = None, []
    with Sidecar(config) as sidecar:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", sidecar.port), 30) as plain:
                tls = context.wrap_socket(plain, server_hostname="localhost", session=session)
                tls.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
                assert tls.recv(65536).startswith(b"HTTP/1.1 200")
                session = tls.session
                reused.append(tls.session_reused)
                tls.close()
    assert reused == [False, True, True]
    assert spent(store_server, "each", 9) == {"alice.example": 3}


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        (None, ""),
        ({}, ""),
        ({"subjectAltName": (("DNS", "B.test"), ("URI", "spiffe://x/A"), ("URI", "y:"))}, "spiffe://x/A"),
        ({"subjectAltName": (("IP Address", "1.2.3.4"), ("DNS", "B.test"), ("DNS", "c"))}, "b.test"),
        (
            {
                "subjectAltName": (("email", "a@b"),),
                "subject": ((("countryName", "DE"),), (("organizationName", "A, B"),), (("commonName", "alice"),)),
            },
            "CN=alice,O=A\\, B,C=DE",
        ),
        ({"subject": ((("serialNumber", "1"), ("commonName", "x=y")),)}, "CN=x\\=y,serialNumber=1"),
        ({"subject": ()}, ""),
    ],
)
def test_the_name_is_the_uri_then_the_dns_name_then_the_subject(certificate: Any, name: str) -> None:
    assert certificate_name(certificate) == name


def test_explain_takes_the_name_of_a_certificate(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("policies: [{name: a, key: client_cert, limit: 1/s, match: {client_cert: 'spiffe://x/*'}}]\n")
    shown = run_command("explain", str(file), "GET", "/", "--client-cert", "spiffe://x/y").stdout
    assert "bucket example:a:spiffe%3A%2F%2Fx%2Fy" in shown
    other = run_command("explain", str(file), "GET", "/", "--client-cert", "z").stdout
    assert "client_cert is z, expected: spiffe://x/*" in other
    warnings = run_command("check", str(file))
    assert (warnings.stdout + warnings.stderr).count(
        "no client has a certificate: listen.tls.client_ca_file is not set"
    ) == 2


def refused(port: int, context: ssl.SSLContext) -> None:
    """Raises OSError where the server ends the handshake, which TLS 1.3 shows at the first read only."""
    with tls_client(port, context) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        if not client._socket.recv(1):
            raise ConnectionError


def test_the_admin_listener_has_its_own_tls(
    store_server: StoreServer, recorder: Recorder, authority: Authority
) -> None:
    config = configuration(store_server.url, recorder.url)
    config["admin"]["tls"] = authority.issue("admin")
    with Sidecar(config) as sidecar:
        connection = http.client.HTTPSConnection(
            "localhost", sidecar.admin_port, context=authority.client(), timeout=30
        )
        connection.request("GET", "/livez")
        assert connection.getresponse().status == 200
        connection.close()
        assert get(sidecar.port).status == 200


def test_a_removed_authority_of_operators_is_refused_and_open_connections_stay(
    store_server: StoreServer, recorder: Recorder, authority: Authority, tmp_path: Path
) -> None:
    trusted, others, former, present = two_authorities(authority, tmp_path)
    config = configuration(store_server.url, recorder.url)
    config["admin"]["tls"] = {**authority.issue("admin"), "client_ca_file": str(trusted)}

    def status(connection: http.client.HTTPSConnection) -> int:
        connection.request("GET", "/livez")
        reply = connection.getresponse()
        reply.read()
        return reply.status

    def connect(context: ssl.SSLContext) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("localhost", config["admin"]["port"], context=context, timeout=30)

    with Sidecar(config) as sidecar:
        kept = connect(former)
        other = connect(present)
        assert (status(kept), status(other)) == (200, 200)
        other.close()
        assert isinstance(kept.sock, ssl.SSLSocket)
        session = kept.sock.session
        trusted.write_bytes(others.file.read_bytes())
        sidecar.wait_for_event("certificate_renewed")
        assert status(kept) == 200, "an open connection stays"
        with socket.create_connection(("127.0.0.1", sidecar.admin_port), 30) as plain, pytest.raises(OSError):
            former.wrap_socket(plain, server_hostname="localhost", session=session)
        other = connect(present)
        assert status(other) == 200
        for each in (kept, other):
            each.close()


@pytest.mark.long
def test_fleet_commands_and_peers_use_tls(
    store_server: StoreServer, recorder: Recorder, authority: Authority, tmp_path: Path
) -> None:
    people = Authority(tmp_path, "people")
    first, second = (configuration(store_server.url, recorder.url) for _ in range(2))
    own = {**authority.issue("admin"), "client_ca_file": str(people.file)}
    first["admin"]["tls"] = own
    # The second one presents its own certificate to the first.
    second["admin"] |= {"tls": people.issue("peer"), "peers_ca_file": str(authority.file)}
    second["admin"]["peers"] = [f"https://localhost:{first['admin']['port']}"]
    url, environment = f"https://localhost:{first['admin']['port']}", {"ADMIN_PORT": str(first["admin"]["port"])}
    mine = people.issue("alice")
    trust = ("--ca-file", str(authority.file))
    present = ("--cert-file", mine["cert_file"], "--key-file", mine["key_file"])
    with Sidecar(first) as sidecar, Sidecar(second) as other:
        assert get(sidecar.port, "/tight/a").status == 200
        for command in (
            ("status",),
            ("top", "--once"),
            ("tail", "--once"),
            ("buckets", "list"),
            ("buckets", "show", "tight", "127.0.0.1"),
            ("buckets", "reset", "tight", "127.0.0.1"),
        ):
            done = run_command(*command, "--admin", url, *trust, *present)
            assert (done.returncode, done.stderr) == (0, ""), command
        done = run_command("status", "--admin", url.replace("localhost", "LOCALHOST."), *trust, *present)
        assert (done.returncode, done.stderr) == (0, ""), "a host with a dot at its end"
        variables = {f"ADMIN_{name.upper()}": path for name, path in mine.items()}
        done = run_command("status", environment={**environment, **variables, "ADMIN_CA_FILE": str(authority.file)})
        assert (done.returncode, done.stderr) == (0, ""), "https is the default where there are certificates"
        for arguments, fault in (
            (("--admin", url), "certificate verify failed"),
            (("--admin", url), "name the authority of its certificate with --ca-file"),
            (("--admin", url, *trust), "needs a certificate: --cert-file and --key-file"),
            (("--admin", url.replace("https", "http")), f"with admin.tls its URL begins with https://: --admin {url}"),
            (("--admin", f"https://localhost:{sidecar.port}", *trust), "does it speak http:// there?"),
        ):
            done = run_command("status", *arguments)
            assert done.returncode == 1
            assert fault in done.stdout + done.stderr
        for wrong, fault in (
            (("--ca-file", str(tmp_path / "absent")), f"{tmp_path / 'absent'}: No such file or directory"),
            (("--cert-file", mine["cert_file"]), "--cert-file and --key-file belong together"),
        ):
            done = run_command("status", "--admin", url, *wrong)
            assert (done.returncode, fault in done.stderr, "Traceback" in done.stderr) == (2, True, False)
        context = ssl.create_default_context(cafile=str(people.file))
        connection = http.client.HTTPSConnection("localhost", other.admin_port, context=context, timeout=30)
        connection.request("GET", "/fleet")
        _, peer = json.loads(connection.getresponse().read())["sidecars"]
        connection.close()
        assert (peer["fault"], peer["overview"]["application"]["state"]) == (None, "up")


@contextlib.contextmanager
def tls_application(own: dict[str, str], client_ca: str = "") -> Iterator[int]:
    """An application that answers within TLS what it was asked; its port."""

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.path.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # failed handshakes are part of the test
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own["cert_file"], own["key_file"])
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_application_can_be_reached_within_tls(
    store_server: StoreServer, authority: Authority, tmp_path: Path
) -> None:
    people = Authority(tmp_path, "people")
    with tls_application(authority.issue("app", "localhost"), str(people.file)) as port:
        tls = {"ca_file": str(authority.file), **people.issue("sidecar", "sidecar"), "health": {"path": "/healthz"}}
        with Sidecar(configuration(store_server.url, f"HTTPS://localhost:{port}", upstream=tls)) as sidecar:
            with RawClient(sidecar.port) as client:
                for number in range(20):
                    assert client.get(f"/{number}").body == b"/%d" % number
            assert get(sidecar.port, "/health").status == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_an_application_with_a_wrong_certificate_is_not_used(
    host: str, store_server: StoreServer, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    own = stranger.issue("app", "localhost") if host == "localhost" else authority.issue("app", "localhost")
    with tls_application(own) as port:
        tls = {"ca_file": str(authority.file)}
        with Sidecar(configuration(store_server.url, f"https://{host}:{port}", upstream=tls)) as sidecar:
            answer = get(sidecar.port)
            assert (answer.status, answer.json()["error"]) == (502, "upstream_connect")
            assert get(sidecar.port, "/health").status == 503


def test_a_handshake_that_never_ends_is_ended(
    store_server: StoreServer, recorder: Recorder, authority: Authority
) -> None:
    config = configuration(
        store_server.url, recorder.url, listen={"tls": authority.issue("a"), "header_timeout": "200ms"}
    )
    with Sidecar(config) as sidecar, socket.create_connection(("127.0.0.1", sidecar.port), 30) as idle:
        began_s = time.monotonic()
        idle.sendall(b"\x16\x03\x01")
        with contextlib.suppress(ConnectionError):
            assert idle.recv(100) == b""
        assert time.monotonic() - began_s < 20
        eventually(lambda: get_tls(sidecar, authority) == 200, "an answer")


def get_tls(sidecar: Sidecar, authority: Authority) -> int:
    with tls_client(sidecar.port, authority.client()) as client:
        return client.get().status


@pytest.mark.parametrize("broken", ["absent", "nonsense"])
def test_a_certificate_that_cannot_be_used_stops_the_start(broken: str, authority: Authority, tmp_path: Path) -> None:
    tls = authority.issue("a")
    if broken == "absent":
        tls["cert_file"] = str(tmp_path / "absent.crt")
    else:
        Path(tls["cert_file"]).write_text("nonsense")
    file = tmp_path / "c.yaml"
    file.write_text(
        f"listen: {{port: 0, tls: {{cert_file: {tls['cert_file']}, key_file: {tls['key_file']}}}}}\nadmin: {{port: {free_port()}}}\n"
    )
    result = run_command("run", "--config", str(file))
    assert result.returncode != 0
    assert tls["cert_file"] in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("listen: {tls: {cert_file: a}}", "listen.tls.cert_file: needs key_file too; expected both or neither"),
        ("admin: {tls: {key_file: a}}", "admin.tls.key_file: needs cert_file too"),
        (
            "listen: {tls: {client_ca_file: a}}",
            "listen.tls.client_ca_file: takes effect only with cert_file and key_file",
        ),
        (
            "listen: {tls: {cert_file: a, key_file: b, min_version: '1.0'}}",
            "'1.0' is not known here; expected 1.2 or 1.3",
        ),
        ("upstream: {ca_file: a}", "upstream.ca_file: takes effect only with an upstream url of https://"),
        ("upstream: {url: 'https://a', cert_file: a}", "upstream.cert_file: needs key_file too"),
    ],
)
def test_a_fault_of_tls_is_named(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.yaml", {})
    assert fault in str(caught.value.faults[0])
