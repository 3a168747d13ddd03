"""Sockets: several hosts, IPv4 through `::`, Unix sockets on both sides."""

import socket
import stat
from pathlib import Path

import pytest
from sidegate.config import ConfigError, parse

from tests.raw_client import RawClient, get
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer, free_port
from tests.sidecar import Sidecar, configuration, run_command, spent

pytestmark = pytest.mark.slow


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def exchange(address: str | tuple[str, int], *fields: str) -> bytes:
    """One request over any socket; the whole answer."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(30)
        connection.connect(address)
        lines = "\r\n".join(["GET /x HTTP/1.1", "Host: a", "Connection: close", *fields, "", ""])
        connection.sendall(lines.encode())
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer


@needs_ipv6
def test_the_unspecified_ipv6_address_serves_ipv4_too(store_server: StoreServer, recorder: Recorder) -> None:
    config = configuration(store_server.url, recorder.url, listen={"host": "::"})
    with Sidecar(config) as sidecar:
        for host in ("127.0.0.1", "::1"):
            assert exchange((host, sidecar.port)).startswith(b"HTTP/1.1 200")
    assert [request.value("x-forwarded-for") for request in recorder.requests] == [b"127.0.0.1", b"::1"]
    assert spent(store_server) == {"client_ip=127.0.0.1": 1, "client_ip=%3A%3A%2F64": 1}


@needs_ipv6
@pytest.mark.parametrize("hosts", [["0.0.0.0", "::"], ["127.0.0.1", "::1"], ["localhost", "127.0.0.1", "::1"]])
def test_a_list_of_hosts_shares_one_port(hosts: list[str], store_server: StoreServer, recorder: Recorder) -> None:
    config = configuration(store_server.url, recorder.url, listen={"host": hosts})
    with Sidecar(config) as sidecar:
        for host in ("127.0.0.1", "::1"):
            assert exchange((host, sidecar.port)).startswith(b"HTTP/1.1 200")


@needs_ipv6
def test_workers_share_every_host(store_server: StoreServer, recorder: Recorder) -> None:
    config = configuration(store_server.url, recorder.url, listen={"host": ["127.0.0.1", "::1"], "workers": 2})
    with Sidecar(config) as sidecar:
        sidecar.wait_for_event("started", 2)
        for host in ("127.0.0.1", "::1") * 4:
            assert exchange((host, sidecar.port)).startswith(b"HTTP/1.1 200")


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: the path of a socket has at most 107 bytes."""
    return tmp_path_factory.mktemp("s")


def test_a_unix_socket_takes_the_place_of_the_port(store_server: StoreServer, recorder: Recorder, folder: Path) -> None:
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    config = configuration(store_server.url, recorder.url, listen={"socket": str(path), "socket_mode": 600})
    config["client_ip"]["trusted_proxies"] = ["127.0.0.0/8"]
    with Sidecar(config) as sidecar:
        assert sidecar.port == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert exchange(str(path)).startswith(b"HTTP/1.1 200")
        assert exchange(str(path), "X-Forwarded-For: 9.9.9.9").startswith(b"HTTP/1.1 200")
        other_file = folder / "c.yaml"
        other_file.write_text(f"listen: {{socket: {path}}}\nadmin: {{port: {free_port()}}}\n")
        second = run_command("run", "--config", str(other_file))
        assert second.returncode != 0
        assert str(path) in second.stdout + second.stderr
        assert "in use" in second.stdout + second.stderr
    assert not path.exists()
    assert [request.value("x-forwarded-for") for request in recorder.requests] == [b"unix", b"9.9.9.9"]
    assert recorder.requests[0].value("forwarded") == b'for=unknown;host="a";proto=http'
    assert spent(store_server) == {"client_ip=0.0.0.0": 1, "client_ip=9.9.9.9": 1}


def test_an_unlisted_unix_peer_is_not_trusted(store_server: StoreServer, recorder: Recorder, folder: Path) -> None:
    path = str(folder / "s")
    config = configuration(store_server.url, recorder.url, listen={"socket": path})
    with Sidecar(config):
        exchange(path, "X-Forwarded-For: 9.9.9.9")
    assert recorder.only().value("x-forwarded-for") == b"unix"
    assert spent(store_server) == {"client_ip=0.0.0.0": 1}


def test_a_file_that_is_no_socket_is_not_removed(store_server: StoreServer, recorder: Recorder, folder: Path) -> None:
    file = folder / "data"
    file.write_text("kept")
    config_file = folder / "c.yaml"
    config_file.write_text(f"listen: {{socket: {file}}}\nadmin: {{port: {free_port()}}}\n")
    result = run_command("run", "--config", str(config_file))
    assert result.returncode != 0
    assert "exists and is no socket" in result.stdout + result.stderr
    assert file.read_text() == "kept"


def test_the_application_can_listen_on_a_unix_socket(store_server: StoreServer, folder: Path) -> None:
    path = folder / "app"
    config = configuration(store_server.url, f"unix:{path}")
    with Sidecar(config) as sidecar:
        down = get(sidecar.port, "/x")
        assert (down.status, down.json()["error"]) == (502, "upstream_connect")
        assert get(sidecar.port, "/health").status == 503
        with socket.socket(socket.AF_UNIX) as application:
            application.bind(str(path))
            application.listen()
            eventually(lambda: get(sidecar.port, "/health").status == 200, "a healthy application")
            with RawClient(sidecar.port) as client:
                client.send(b"GET /x HTTP/1.0\r\n\r\n")
                while True:  # past the connections of health checks
                    connection, _ = application.accept()
                    with connection:
                        if received := connection.recv(65536):
                            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                            break
                assert client.reply().body == b"ok"
    assert b"\r\nHost: localhost:80\r\n" in received


@pytest.mark.parametrize(
    "text",
    [
        "upstream: {url: 'HTTP://App.Example.com.:9000'}",
        "upstream: {url: 'Unix:///run/app.sock'}",
        "store: {url: 'Redis://store.example.com.:6379/0'}",
        "store: {url: 'REDIS+SENTINEL://a.:26379,b/mymaster'}",
        "store: {url: 'Rediss+Cluster://a.,b.:1'}",
        "store: {url: 'UNIX:///run/redis.sock'}",
        "admin: {peers: ['HTTP://peer.:9901']}",
        "tracing: {endpoint: 'HTTPS://collector.:4318/v1/traces'}",
        "listen: {host: app.example.com.}",
        "listen: {host: ['::', 0.0.0.0]}",
        "listen: {socket: /run/s, socket_mode: '0660'}",
    ],
)
def test_trailing_dots_and_schemes_in_any_case_are_valid(text: str) -> None:
    parse(text, "c.yaml", {})


def test_localhost_with_a_trailing_dot_is_found(store_server: StoreServer, recorder: Recorder) -> None:
    store, upstream = (url.replace("127.0.0.1", "LOCALHOST.") for url in (store_server.url, recorder.url))
    config = configuration(store, upstream, listen={"host": "localhost."}, admin={"host": "localhost."})
    with Sidecar(config) as sidecar:
        assert get(sidecar.port).status == 200
        assert get(sidecar.admin_port, "/livez").status == 200
    assert spent(store_server)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("listen: {socket: run/s}", "'run/s' cannot be the path of a socket; expected an absolute path"),
        ("listen: {socket: '/" + "x" * 107 + "'}", "cannot be the path of a socket"),
        ("listen: {socket: /s, workers: 2}", "processes cannot share a Unix socket; expected 1 beside listen.socket"),
        ("listen: {socket: /s, socket_mode: 999}", "999 is not a file mode; expected three octal digits, e.g. 660"),
        ("listen: {socket: /s}\nupstream: {url: 'unix:/s'}", "'unix:/s' is this sidecar itself"),
        ("upstream: {url: 'unix:run/s'}", "is not an upstream; expected e.g. http://127.0.0.1:9000, unix:/run/app"),
        ("listen: {host: [0.0.0.0, 'a b']}", "listen.host[1]: 'a b' is not a host to listen on"),
        (
            "listen: {host: ['::1', 127.0.0.1], port: 7}\nadmin: {host: 127.0.0.1, port: 7}",
            "7 is the port of listen too",
        ),
        ("upstream: {url: 'http://a..:1'}", "is not an upstream"),
    ],
)
def test_a_fault_of_a_socket_is_named(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.yaml", {})
    assert fault in str(caught.value.faults[0])
