"""The sockets that clients connect to: TCP on every host of `listen.host`, or one Unix socket."""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

from sidegate.config import ListenSettings

BACKLOG = 1024


def listening_sockets(settings: ListenSettings, *, shared: bool = False) -> list[socket.socket]:
    """Bound sockets, on ports of their own or (`shared`) on ports that other workers use too.

    With port 0 all hosts have the port that the first one got. Raises OSError where an address cannot be had.
    """
    if settings.socket is not None:
        return [_unix_socket(settings.socket, settings.socket_mode)]
    sockets: list[socket.socket] = []
    port, dual = settings.port, "0.0.0.0" not in settings.host  # noqa: S104  (compared with, not bound to)
    try:
        for family, host in _addresses(settings.host):
            sockets.append(_tcp_socket(family, host, port, shared=shared, dual=dual))
            port = sockets[0].getsockname()[1]
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets


def _addresses(hosts: Sequence[str]) -> list[tuple[int, str]]:
    """Families and addresses of hosts, each once; a name may have several."""
    found: dict[tuple[int, str], None] = {}
    for host in hosts:
        for family, _, _, _, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            found[family, str(address[0])] = None
    return list(found)


def inode_of(path: str | None) -> int:
    """The identity of a socket's file; 0 where there is none."""
    return Path(path).stat().st_ino if path is not None else 0


def remove_socket(path: str | None, inode: int) -> None:
    """Remove a socket's file, unless another process has replaced it."""
    with contextlib.suppress(OSError):
        if path is not None and inode_of(path) == inode:
            Path(path).unlink()


def _tcp_socket(family: int, host: str, port: int, *, shared: bool, dual: bool) -> socket.socket:
    each = socket.socket(family, socket.SOCK_STREAM)
    try:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # "::" serves IPv4 too, unless 0.0.0.0 does.
            each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        each.bind((host, port))
    except OSError as error:
        each.close()
        raise OSError(error.errno, f"{host} port {port}: {error.strerror}") from error
    return each


def _unix_socket(path: str, mode: int) -> socket.socket:
    """A bound Unix socket. The file of one that no process listens on any more is replaced."""
    each = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        each.bind(path)
        Path(path).chmod(mode)  # nobody can connect before it listens
    except OSError as error:
        each.close()
        raise OSError(error.errno, f"{path}: {error.strerror}") from error
    return each


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise OSError(errno.EEXIST, "exists and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
