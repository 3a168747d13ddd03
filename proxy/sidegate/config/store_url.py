"""Parses the store's URL.

Errors are sentences that never show the URL where it may hold a password.
"""

import re
from enum import Enum
from typing import NamedTuple
from urllib.parse import unquote

from sidegate.config import addresses
from sidegate.config.faults import quote

DEFAULT_REDIS_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379

_HOSTS = rf"(?P<hosts>{addresses.HOST}{addresses.PORT}(?:,{addresses.HOST}{addresses.PORT})*)"
_DB = r"(?P<db>[0-9]{1,5})"
_SERVER = re.compile(rf"(?P<scheme>(?i:rediss?))://(?P<hosts>{addresses.HOST}{addresses.PORT})(?:/{_DB}?)?")
_SENTINEL = re.compile(rf"(?P<scheme>(?i:rediss?))\+(?i:sentinel)://{_HOSTS}/(?P<service>[A-Za-z0-9._-]+)(?:/{_DB}?)?")
_CLUSTER = re.compile(rf"(?P<scheme>(?i:rediss?))\+(?i:cluster)://{_HOSTS}(?:/0?)?")
_UNIX = re.compile(rf"(?i:unix)://(?P<path>/[^?#\s]+)(?:\?db={_DB})?")

_EXPECTED = "expected e.g. localhost:6379, redis://host:6379/0, rediss://host:6379, unix:///run/redis.sock"
_A_SENTINEL = "expected e.g. redis+sentinel://host1:26379,host2:26379/mymaster"
_A_CLUSTER = "expected e.g. redis+cluster://host1:6379,host2:6379"


class Credentials(NamedTuple):
    """A store's URL without its credentials, and the credentials."""

    url: str
    username: str
    password: str


class StoreKind(Enum):
    """The way to the store: one server, a socket, Sentinels, or a Cluster."""

    SERVER = "server"
    SOCKET = "socket"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class Address(NamedTuple):
    """Host and port of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class StoreUrl(NamedTuple):
    """The parts of a store's URL. `addresses`: the server, the Sentinels, or some nodes of a Cluster; else empty."""

    kind: StoreKind
    addresses: tuple[Address, ...]
    tls: bool = False
    db: int = 0
    service: str = ""
    path: str = ""

    def __str__(self) -> str:
        """The URL without credentials, with every port and database spelled out."""
        if self.kind is StoreKind.SOCKET:
            return f"unix://{self.path}?db={self.db}"
        scheme = "rediss" if self.tls else "redis"
        hosts = ",".join(map(str, self.addresses))
        if self.kind is StoreKind.SERVER:
            return f"{scheme}://{hosts}/{self.db}"
        if self.kind is StoreKind.SENTINEL:
            return f"{scheme}+sentinel://{hosts}/{self.service}/{self.db}"
        return f"{scheme}+cluster://{hosts}"


def split_credentials(url: str) -> Credentials:
    """The store's URL, and the user name and password in it, percent-decoded."""
    scheme, separator, rest = url.rpartition("://")
    authority, slash, path = rest.partition("/")
    userinfo, at, host = authority.rpartition("@")
    if not at:
        return Credentials(url, "", "")
    username, _, password = userinfo.partition(":")
    return Credentials(f"{scheme}{separator}{host}{slash}{path}", unquote(username), unquote(password))


def parse(url: str) -> StoreUrl:
    """The parts of a store's URL. Raises ValueError with a sentence."""
    scheme = url.partition("://")[0].lower()
    expected = _A_SENTINEL if scheme.endswith("+sentinel") else _A_CLUSTER if scheme.endswith("+cluster") else _EXPECTED
    if "@" in url:
        raise ValueError(f"the URL cannot be read; write the password in store.password, and here {expected}")
    if match := _UNIX.fullmatch(url):
        return StoreUrl(StoreKind.SOCKET, (), db=int(match["db"] or 0), path=match["path"])
    if match := _SERVER.fullmatch(url if "://" in url else f"redis://{url}"):
        return _found(StoreKind.SERVER, match, DEFAULT_REDIS_PORT, db=int(match["db"] or 0))
    if match := _SENTINEL.fullmatch(url):
        return _found(
            StoreKind.SENTINEL, match, DEFAULT_SENTINEL_PORT, db=int(match["db"] or 0), service=match["service"]
        )
    if match := _CLUSTER.fullmatch(url):
        return _found(StoreKind.CLUSTER, match, DEFAULT_REDIS_PORT)
    value = "the URL" if "://:" in url else quote(url)  # the text after that colon is a password
    raise ValueError(f"{value} is not a store; {expected}")


def _found(kind: StoreKind, match: re.Match[str], default_port: int, db: int = 0, service: str = "") -> StoreUrl:
    tls = match["scheme"].lower() == "rediss"
    found = (_address(text, default_port) for text in match["hosts"].split(","))
    # Certificates name hosts without the dot at the end, and redis-py compares the name as it is.
    hosts = tuple(Address(each.host.rstrip("."), each.port) if tls else each for each in found)
    return StoreUrl(kind, hosts, tls, db, service)


def _address(text: str, default_port: int) -> Address:
    match = re.fullmatch(rf"(?P<host>{addresses.HOST})(?::(?P<port>[0-9]+))?", text)
    if match is None:
        raise AssertionError(text)  # the caller matched the same pattern
    return Address(addresses.host(match["host"]), addresses.port(match["port"], default_port))
