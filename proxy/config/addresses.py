"""URLs and networks as a configuration may give them.

Every function raises ValueError with a sentence. Those about the store's URL never show it where it may hold a
password.
"""

import re
from ipaddress import IPv6Address, IPv6Network, ip_network
from typing import NamedTuple
from urllib.parse import unquote

from proxy.config.faults import shown
from proxy.decision.identity import Network

DEFAULT_REDIS_PORT = 6379

_HOST = r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
_PORT = r"(?::(?P<port>[0-9]{1,5}))?"
_UPSTREAM = re.compile(rf"http://{_HOST}{_PORT}/?")
_REDIS = re.compile(rf"(?P<scheme>rediss?)://{_HOST}{_PORT}(?:/(?P<db>[0-9]{{1,5}})?)?")
_UNIX = re.compile(r"unix://(?P<path>/[^?#\s]+)(?:\?db=(?P<db>[0-9]{1,5}))?")
_LATER = ("redis+sentinel://", "redis+cluster://")

_AN_UPSTREAM = "expected e.g. http://127.0.0.1:9000"
_A_STORE = "expected e.g. localhost:6379, redis://host:6379/0, rediss://host:6379, unix:///run/redis.sock"


class Endpoint(NamedTuple):
    """Where the application listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


class Credentials(NamedTuple):
    """A store's URL without the credentials that it held, and these."""

    url: str
    username: str
    password: str


def upstream(url: str) -> Endpoint:
    """The endpoint that an upstream's URL names."""
    if url.startswith("https://"):
        raise ValueError(f"{_bare(url)} asks for TLS, but the sidecar stands beside the application; {_AN_UPSTREAM}")
    match = _UPSTREAM.fullmatch(url)
    if match is None:
        raise ValueError(f"{_bare(url)} is not an upstream; {_AN_UPSTREAM}: scheme, host and port alone")
    return Endpoint(_host(match["host"]), _port(match["port"], 80))


def split_credentials(url: str) -> Credentials:
    """The store's URL, and the user name and password in it, percent-decoded."""
    scheme, separator, rest = url.rpartition("://")
    authority, slash, path = rest.partition("/")
    userinfo, at, host = authority.rpartition("@")
    if not at:
        return Credentials(url, "", "")
    username, _, password = userinfo.partition(":")
    return Credentials(f"{scheme}{separator}{host}{slash}{path}", unquote(username), unquote(password))


def store(url: str) -> str:
    """The store's URL in full: `redis://host:port/db`, `rediss://host:port/db` or `unix:///path?db=n`."""
    if url.startswith(_LATER):
        raise ValueError(f"{url.partition('://')[0]}:// is not supported by this version yet; {_A_STORE}")
    if "@" in url:
        raise ValueError(f"the URL cannot be read; write the password in store.password, and here {_A_STORE}")
    if match := _UNIX.fullmatch(url):
        return f"unix://{match['path']}?db={int(match['db'] or 0)}"
    match = _REDIS.fullmatch(url if "://" in url else f"redis://{url}")
    if match is None:
        value = "the URL" if "://:" in url else shown(url)  # a colon there begins a password
        raise ValueError(f"{value} is not a store; {_A_STORE}")
    host = _host(match["host"])
    host = f"[{host}]" if ":" in host else host
    return f"{match['scheme']}://{host}:{_port(match['port'], DEFAULT_REDIS_PORT)}/{int(match['db'] or 0)}"


def network(text: str) -> Network:
    """A network or a single address. IPv4-mapped IPv6 is IPv4, as addresses of clients are."""
    expected = "expected e.g. 10.0.0.0/8, 192.0.2.7, 2001:db8::/32"
    try:
        loose = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a network; {expected}") from None
    if "%" in text:
        raise ValueError(f"{shown(text)} names a zone; {expected}")
    try:
        found = ip_network(text)
    except ValueError:
        raise ValueError(f"{shown(text)} has bits beyond its prefix; did you mean {loose}?") from None
    if isinstance(found, IPv6Network) and found.prefixlen >= 96 and found.network_address.ipv4_mapped is not None:
        return ip_network((found.network_address.ipv4_mapped, found.prefixlen - 96))
    return found


def _host(text: str) -> str:
    if not text.startswith("["):
        return text
    try:
        return str(IPv6Address(text[1:-1]))
    except ValueError:
        raise ValueError(f"{shown(text)} is not an IPv6 address; expected e.g. [2001:db8::1]") from None


def _port(text: str | None, default: int) -> int:
    port = default if text is None else int(text)
    if not 0 < port < 65536:
        raise ValueError(f"{port} is not a port to connect to; expected a whole number from 1 to 65535")
    return port


def _bare(url: str) -> str:
    """The URL as shown, without what stands before an `@`: people put passwords there."""
    return shown(url.rpartition("@")[2])
