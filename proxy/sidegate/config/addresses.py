"""Reads the upstream's URL, hosts, ports and networks of a configuration. store_url reads the store's URL.

Every function raises ValueError with a sentence.
"""

import re
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from sidegate.config.faults import quote
from sidegate.decision.identity import Network

HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\.?|\[[0-9A-Fa-f:.]+\])"
PORT = r"(?::[0-9]{1,5})?"
_UPSTREAM = re.compile(rf"(?P<scheme>(?i:https?))://(?P<host>{HOST})(?::(?P<port>[0-9]{{1,5}}))?/?")
_UPSTREAM_SOCKET = re.compile(r"(?i:unix):(?://)?(?P<path>/[^?#\s]+)")

_EVERY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104  (compared with, not bound to)
_AN_UPSTREAM = "expected e.g. http://127.0.0.1:9000, unix:/run/app/app.sock"


class Endpoint(NamedTuple):
    """The application's host and port, or its Unix socket. As text it is a URL."""

    host: str
    port: int
    socket: str = ""
    tls: bool = False

    @property
    def authority(self) -> str:
        """`host:port` as the Host field has it: an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def place(self) -> str:
        """`host:port`, or the path of the socket, for messages."""
        return self.socket or self.authority

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket else f"{'https' if self.tls else 'http'}://{self.authority}"


def upstream(url: str) -> Endpoint:
    """The endpoint that an upstream's URL names."""
    if match := _UPSTREAM_SOCKET.fullmatch(url):
        return Endpoint("localhost", 80, match["path"])
    match = _UPSTREAM.fullmatch(url)
    if match is None:
        raise ValueError(f"{_bare(url)} is not an upstream; {_AN_UPSTREAM}: scheme, host and port alone")
    tls = match["scheme"].lower() == "https"
    return Endpoint(host(match["host"]), port(match["port"], 443 if tls else 80), tls=tls)


def network(text: str) -> Network:
    """A network or a single address. IPv4-mapped IPv6 is IPv4, as addresses of clients are."""
    expected = "expected e.g. 10.0.0.0/8, 192.0.2.7, 2001:db8::/32"
    try:
        loose = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{quote(text)} is not a network; {expected}") from None
    if "%" in text:
        raise ValueError(f"{quote(text)} names a zone; {expected}")
    try:
        found = ip_network(text)
    except ValueError:
        raise ValueError(f"{quote(text)} has bits beyond its prefix; did you mean {loose}?") from None
    if isinstance(found, IPv6Network) and found.prefixlen >= 96 and found.network_address.ipv4_mapped is not None:
        return ip_network((found.network_address.ipv4_mapped, found.prefixlen - 96))
    return found


def host(text: str) -> str:
    """A host in the form for sockets: IPv6 without brackets.

    `localhost.` loses its dot: with it, glibc does not find the name in /etc/hosts.
    """
    if not text.startswith("["):
        return "localhost" if text.lower() == "localhost." else text
    try:
        return str(IPv6Address(text[1:-1]))
    except ValueError:
        raise ValueError(f"{quote(text)} is not an IPv6 address; expected e.g. [2001:db8::1]") from None


def port(text: str | None, default: int) -> int:
    """A port to connect to."""
    number = default if text is None else int(text)
    if not 0 < number < 65536:
        raise ValueError(f"{number} is not a port to connect to; expected a whole number from 1 to 65535")
    return number


def _bare(url: str) -> str:
    """The URL for a message, without the part before an `@`, which may hold a password."""
    return quote(url.rpartition("@")[2])


def is_loopback(host: str) -> bool:
    """Whether a host is this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def overlap(host: str, other: str) -> bool:
    """Whether two listeners cannot share one port at these hosts: the same address, or one of them is every address."""
    return host == other or bool(_EVERY_ADDRESS & {host, other})
