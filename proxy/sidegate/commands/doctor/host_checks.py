"""Checks of the application, the ports and the limit of open files."""

import errno
import resource
import socket
import ssl
from collections.abc import Iterator
from http.client import HTTPException, HTTPSConnection

from sidegate.commands.doctor.diagnosis import Diagnosis, failure, ok, warning
from sidegate.commands.doctor.socket_checks import check_listening_socket
from sidegate.commands.fleet.sidecars import TIMEOUT_S, ask
from sidegate.config import AdminSettings, Settings
from sidegate.config.addresses import Endpoint
from sidegate.config.store_url import Address
from sidegate.config.tls_settings import TlsFiles, client_context
from sidegate.edge.file_limit import OWN_DESCRIPTORS


def check_application(settings: Settings) -> Iterator[Diagnosis]:
    """Whether it accepts connections, over TLS where `upstream.url` has https. No request is sent."""
    upstream = settings.upstream
    url, timeout_s = upstream.url, upstream.connect_timeout_s
    origin = settings.origins.get("upstream.url", "default")
    try:
        with _connection(url, timeout_s) as connection:
            if url.tls:
                context = client_context(TlsFiles(upstream.cert_file, upstream.key_file, upstream.ca_file))
                context.wrap_socket(connection, server_hostname=url.host.rstrip(".")).close()
        yield ok("application", f"{url} accepts connections")
    except ssl.SSLCertVerificationError as error:
        advice = "correct upstream.ca_file, or the application's certificate"
        yield failure("application", f"{url}: its certificate is refused: {error.verify_message}", advice)
    except ssl.SSLError as error:
        yield failure("application", f"{url}: TLS: {error.reason}", f"correct upstream.url (now from: {origin})")
    except PermissionError as error:
        advice = "let the sidecar's user write to the socket and enter its folder"
        yield failure("application", f"{url}: {error.strerror}", advice)
    except OSError as error:
        reason = f"no connection within {timeout_s:g} s" if isinstance(error, TimeoutError) else error.strerror or error
        yield failure("application", f"{url}: {reason}", f"start it, or correct upstream.url (now from: {origin})")


def _connection(url: Endpoint, timeout_s: float) -> socket.socket:
    if not url.socket:
        return socket.create_connection((url.host, url.port), timeout=timeout_s)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)
    try:
        connection.connect(url.socket)
    except OSError:
        connection.close()
        raise
    return connection


def check_ports(settings: Settings) -> Iterator[Diagnosis]:
    """Whether both ports are free, or used by a sidecar of this configuration."""
    listen, admin = settings.listen, settings.admin
    admin_fault = _taken(admin.host, admin.port)
    runs_here = admin_fault == errno.EADDRINUSE and _is_sidecar(admin)
    yield from check_listening_socket(listen, runs_here=runs_here)
    for name, host, port, fault in (
        *(("port", host, listen.port, _taken(host, listen.port)) for host in ([] if listen.socket else listen.host)),
        ("admin port", admin.host, admin.port, admin_fault),
    ):
        address = Address(host, port)
        setting = "listen.port" if name == "port" else "admin.port"
        flag = "--port" if name == "port" else "--admin-port"
        if not fault:
            yield ok(name, f"{address} is free")
        elif fault == errno.EADDRINUSE and runs_here:
            yield ok(name, f"{address} is used by a running sidecar")
        elif fault == errno.EADDRINUSE:
            yield failure(name, f"{address} is used by another process", f"stop it, or change {setting} or {flag}")
        elif fault == errno.EACCES:
            yield failure(name, f"{address} needs the right to use ports below 1024", f"change {setting}")
        else:
            yield failure(name, f"{address}: this machine does not have that address", f"change {setting[:-5]}.host")


def check_open_files(settings: Settings) -> Iterator[Diagnosis]:
    """Whether the limit of open files covers the configured connections. A sidecar raises the soft limit itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.listen.max_connections + settings.upstream.max_connections + OWN_DESCRIPTORS
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        limit = "no limit" if hard == resource.RLIM_INFINITY else f"{hard} allowed"
        yield ok("open files", f"{limit}, {wanted} needed for all connections")
    else:
        yield warning(
            "open files",
            f"{hard} allowed, {wanted} needed for all connections",
            "raise the limit (ulimit -Hn, LimitNOFILE=), or lower listen.max_connections",
        )


def _taken(host: str, port: int) -> int:
    """The error number of an attempt to listen there; 0 if it succeeds."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        with socket.socket(family, kind) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(address)
    except OSError as error:
        return error.errno or errno.EADDRNOTAVAIL
    return 0


def _is_sidecar(admin: AdminSettings) -> bool:
    """Whether a sidecar's admin listener answers there."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(admin.host, admin.host)  # noqa: S104  (compared with)
    if admin.tls.cert_file is None:
        reply = ask(f"http://{Address(local, admin.port)}", "/livez")
        return not reply.fault and reply.content.get("status") == "ok"
    # Any certificate will do: nothing secret is sent, and its name is not that of this address.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = HTTPSConnection(local, admin.port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
