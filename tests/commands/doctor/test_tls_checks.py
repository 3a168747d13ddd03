"""`sidegate doctor` with TLS: files, lifetimes, and the application's certificate."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from sidegate.commands.doctor.diagnosis import Diagnosis
from sidegate.commands.doctor.host_checks import check_application
from sidegate.commands.doctor.tls_checks import check_tls
from sidegate.config import parse

DAY_S = 86400


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> Path:
    """A folder with `ca`, and `cert` and `key` for localhost, valid for ten days."""
    ends = datetime.now(UTC) + timedelta(days=10, hours=1)
    issued = authority.issue_cert("localhost", not_after=ends)
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key"))
    return tmp_path


def checked(text: str, now_s: float | None = None) -> list[Diagnosis]:
    return list(check_tls(parse(f"{text}\npolicies: []\n", "test", {}), now_s))


def of_listener(files: Path) -> str:
    return f"listen: {{tls: {{cert_file: {files / 'cert'}, key_file: {files / 'key'}}}}}"


def test_without_tls_there_is_nothing_to_report() -> None:
    assert checked("") == []


@pytest.mark.parametrize(
    ("days", "state", "part"),
    [
        (-12, "ok", "is valid for 22 days"),
        (0, "warn", "expires in 10 days"),
        (11, "fail", "expired on"),
        (-20_000, "fail", "is valid only from"),
    ],
)
def test_the_lifetime_of_a_certificate_is_reported(files: Path, days: int, state: str, part: str) -> None:
    (found,) = checked(of_listener(files), datetime.now(UTC).timestamp() + days * DAY_S)
    assert (found.state.value, part in found.text) == (state, True), found
    assert found.text.startswith(f"listen.tls.cert_file: {files / 'cert'} ")


def test_a_key_of_another_certificate_is_a_failure(authority: trustme.CA, files: Path) -> None:
    authority.issue_cert("other").private_key_pem.write_to_path(str(files / "key"))
    (found,) = checked(of_listener(files))
    assert (found.state.value, "KEY_VALUES_MISMATCH" in found.text) == ("fail", True), found


@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "not a certificate"])
def test_a_file_that_cannot_be_used_is_a_failure(files: Path, content: str | None) -> None:
    if content is None:
        (files / "cert").unlink()
    else:
        (files / "cert").write_text(content)
    (found,) = checked(of_listener(files))
    assert (found.state.value, str(files / "cert") in found.text) == ("fail", True), found


def test_authorities_of_all_sections_are_checked(files: Path) -> None:
    found = checked(
        f"listen: {{tls: {{cert_file: {files / 'cert'}, key_file: {files / 'key'}, client_ca_file: {files / 'ca'}}}}}\n"
        f"upstream: {{url: 'https://localhost:1', ca_file: {files / 'ca'}}}\n"
        f"store: {{url: 'rediss://localhost:1', ca_file: {files / 'ca'}}}"
    )
    assert [each.text.partition(":")[0] for each in found] == [
        "listen.tls.cert_file",
        "listen.tls.client_ca_file",
        "upstream.ca_file",
        "store.ca_file",
    ]


@contextmanager
def tls_application(files: Path) -> Iterator[int]:
    """Accepts TLS connections, each until the client leaves; yields the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "cert", files / "key")

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connection, server_side=True) as accepted:
                    accepted.recv(1)
            except OSError:
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_the_certificate_of_the_application_is_verified(files: Path) -> None:
    with tls_application(files) as port:
        url = f"https://localhost:{port}"
        (known,) = check_application(
            parse(f"upstream: {{url: '{url}', ca_file: {files / 'ca'}}}\npolicies: []\n", "test", {})
        )
        (unknown,) = check_application(parse(f"upstream: {{url: '{url}'}}\npolicies: []\n", "test", {}))
    assert (known.state.value, known.text) == ("ok", f"{url} accepts connections")
    assert (unknown.state.value, "its certificate is refused: " in unknown.text) == ("fail", True), unknown


def test_an_application_without_tls_is_a_failure_for_https() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"https://localhost:{server.getsockname()[1]}"
        (found,) = check_application(parse(f"upstream: {{url: '{url}'}}\npolicies: []\n", "test", {}))
        thread.join()
    assert (found.state.value, ": TLS: " in found.text) == ("fail", True), found
