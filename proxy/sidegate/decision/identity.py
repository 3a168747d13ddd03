"""Identifies the caller: key sources, the client's address, and the encoding of values in bucket names."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote_from_bytes

from sidegate.decision.key_values import (
    CREDENTIAL_FIELDS,
    ValueReader,
    client_cert_of,
    cookie_reader,
    header_reader,
    host_of,
    method_of,
    path_reader,
    query_reader,
)
from sidegate.decision.request import RequestFacts

Network = IPv4Network | IPv6Network

# Bounds a bucket's name: longer values are stored as a 128-bit BLAKE2b hash.
LONGEST_VALUE_BYTES = 96
# Values of these fields are secrets; their buckets carry a hash only.
SECRET_FIELDS = frozenset({"cookie", "x-api-key"}) | CREDENTIAL_FIELDS
# No address with zone and port is longer; longer entries of X-Forwarded-For are not parsed and not cached.
LONGEST_ADDRESS_CHARS = 64
# Bounds the walk through X-Forwarded-For; no chain of proxies is longer.
MOST_HOPS = 32
# The peer of a connection on a Unix socket. It is on this machine, and trusted where loopback addresses are.
UNIX_PEER = "unix"
# The bucket of all requests that have none of a key's sources.
ANONYMOUS = "anonymous"
# The label of a client's address as a later alternative of a key.
CLIENT_LABEL = "client_ip="

_LOOPBACK = IPv4Address("127.0.0.1")
_PLAIN = re.compile(r"[A-Za-z0-9._~@+-]{1,96}")
# 192.0.2.7:4711, [2001:db8::1], [2001:db8::1]:80. An IPv6 address without brackets has no port.
_ADDRESS_WITH_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}|\[([0-9A-Fa-f:.]+(?:%[^\]]*)?)\](?::[0-9]{1,5})?")


class SourceKind(Enum):
    """The part of a request that a key source reads."""

    HEADER = "header"
    CLIENT_IP = "client_ip"
    PATH = "path"
    QUERY = "query"
    COOKIE = "cookie"
    METHOD = "method"
    HOST = "host"
    CLIENT_CERT = "client_cert"


@dataclass(frozen=True, slots=True)
class KeySource:
    """One source: `name` is the field, parameter or cookie, or the 1-based segment of `path:N`; else empty."""

    kind: SourceKind
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.name}" if self.name else self.kind.value

    @property
    def field(self) -> str | None:
        """The header field that the source reads, in lower case; else None."""
        match self.kind:
            case SourceKind.HEADER:
                return self.name.lower()
            case SourceKind.COOKIE:
                return "cookie"
            case _:
                return None

    @property
    def secret(self) -> bool:
        """Whether its values are secrets, stored only as a hash."""
        return self.kind is SourceKind.COOKIE or (self.kind is SourceKind.HEADER and self.name.lower() in SECRET_FIELDS)


@dataclass(frozen=True, slots=True)
class Key:
    """The key of a policy's buckets: for each part, alternatives of which the first one present is used."""

    parts: tuple[tuple[KeySource, ...], ...]

    def __str__(self) -> str:
        return ", ".join(" | ".join(map(str, alternatives)) for alternatives in self.parts)


@dataclass(frozen=True, slots=True)
class ClientAddress:
    """The settings of client addresses: peers whose X-Forwarded-For is trusted, and the IPv6 prefix of one client."""

    trusted: tuple[Network, ...] = ()
    ipv6_prefix: int = 64


# Reads one part of a key: its text in the bucket's name, and the value itself ("" where no source is present).
PartReader = Callable[[RequestFacts], tuple[str, str]]


class Identity:
    """Reads key values from requests. Keeps bounded caches of addresses and no other state."""

    def __init__(self, addresses: ClientAddress) -> None:
        self._addresses = addresses
        self._trusts = lru_cache(1024)(self._is_trusted)
        self.trusts = lru_cache(1024)(self._trusts_peer)

    def part_readers(self, key: Key, *, ignore_case: bool = False) -> tuple[PartReader, ...]:
        """The key's parts, compiled. Reading raises BadRequest where an identity field occurs more than once.

        `ignore_case` reads paths in lower case, where their match ignores it.
        """
        return tuple(self._part_reader(alternatives, ignore_case) for alternatives in key.parts)

    def _part_reader(self, alternatives: Sequence[KeySource], ignore_case: bool) -> PartReader:
        sources = [
            (
                self._value_reader(source, ignore_case=ignore_case),
                hashed if source.secret else encode,
                _label(source) if position else "",
            )
            for position, source in enumerate(alternatives)
        ]

        def read(facts: RequestFacts) -> tuple[str, str]:
            for value_of, written, label in sources:
                value = value_of(facts)
                if value:
                    return label + written(value), value
            return ANONYMOUS, ""

        first = alternatives[0]
        plain = first.kind is SourceKind.HEADER and not first.secret
        return _read_header_first(first.name, read) if plain else read

    def _value_reader(self, source: KeySource, *, ignore_case: bool) -> ValueReader:
        name = source.name
        match source.kind:
            case SourceKind.HEADER:
                return header_reader(name)
            case SourceKind.CLIENT_IP:
                return self.client_group
            case SourceKind.PATH:
                return path_reader(name, ignore_case=ignore_case)
            case SourceKind.QUERY:
                return query_reader(name)
            case SourceKind.COOKIE:
                return cookie_reader(name)
            case SourceKind.METHOD:
                return method_of
            case SourceKind.HOST:
                return host_of
            case SourceKind.CLIENT_CERT:
                return client_cert_of

    def client_ip(self, facts: RequestFacts) -> IPv4Address | IPv6Address:
        """The client's address: X-Forwarded-For read from the right, past trusted proxies only.

        A malformed entry, and one beyond MOST_HOPS, ends the walk at the last trusted hop. IPv4-mapped IPv6 is IPv4.
        """
        address = _address(facts.peer) or IPv4Address(0)  # all peers on a Unix socket are one client
        if not self._addresses.trusted or not self.trusts(facts.peer):
            return address
        left = MOST_HOPS
        for value in reversed(facts.fields.getall("X-Forwarded-For", ())):
            for entry in reversed(value.rsplit(",", MOST_HOPS)):
                left -= 1
                if left < 0:
                    return address
                text = entry.strip(" \t")
                hop = _address(text) if len(text) <= LONGEST_ADDRESS_CHARS else None
                if hop is None:
                    return address
                address = hop
                if not self._trusts(address):
                    return address
        return address

    def client_group(self, facts: RequestFacts) -> str:
        """The client's address as a key: IPv4 itself, IPv6 as its network."""
        address = self.client_ip(facts)
        if isinstance(address, IPv6Address) and self._addresses.ipv6_prefix < 128:
            return str(ip_network((address, self._addresses.ipv6_prefix), strict=False))
        return str(address)

    def _trusts_peer(self, peer: str) -> bool:
        """Whether a peer's X-Forwarded-For is trusted."""
        address = _LOOPBACK if peer == UNIX_PEER else _address(peer)
        return address is not None and self._trusts(address)

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._addresses.trusted)


def is_address(value: str) -> bool:
    """Whether a value is an address or a network."""
    try:
        ip_network(value, strict=False)
    except ValueError:
        return False
    return True


def _label(source: KeySource) -> str:
    """The label of a value from a later alternative. Field names have no case; parameter and cookie names have."""
    if not source.name:
        return f"{source.kind.value}="
    return f"{source.kind.value}:{encode(source.name.lower() if source.kind is SourceKind.HEADER else source.name)}="


def _read_header_first(name: str, general: PartReader) -> PartReader:
    """`general`, with a short path for the common key: one header field, present once, of ordinary length."""

    def read(facts: RequestFacts) -> tuple[str, str]:
        values = facts.fields.getall(name, ())
        if len(values) == 1:
            value = values[0].strip(" \t")
            if 0 < len(value) <= LONGEST_VALUE_BYTES:
                return _encode(value), value
        return general(facts)

    return read


def encode(value: str) -> str:
    """A value as part of a bucket's name: percent-encoded outside `[A-Za-z0-9._~@+-]`, hashed where it is long.

    Injective, and never equal to ANONYMOUS: the value `anonymous` itself becomes `%61nonymous`.
    """
    return _encode(value) if len(value) <= LONGEST_VALUE_BYTES else hashed(value)


@lru_cache(4096)
def _encode(value: str) -> str:
    if _PLAIN.fullmatch(value) and value != ANONYMOUS:
        return value
    raw = value.encode("utf-8", "surrogateescape")
    if len(raw) > LONGEST_VALUE_BYTES:
        return hashed(value)
    return "%61nonymous" if value == ANONYMOUS else quote_from_bytes(raw, safe="@+~")


def hashed(value: str) -> str:
    """A value as its BLAKE2b-128 hash; the mark contains `=`, which no plain value does."""
    return "blake2b=" + blake2b(value.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


@lru_cache(4096)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address, without an unambiguous port; None for any other text. IPv4-mapped IPv6 is IPv4."""
    with_port = _ADDRESS_WITH_PORT.fullmatch(text)
    if with_port:
        text = with_port[1] or with_port[2]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def deciding_field(key: Key | None) -> str:
    """The header field that gives a key of one part whenever it is present; empty for others and for secrets."""
    if key is None or len(key.parts) != 1:
        return ""
    first = key.parts[0][0]
    return first.name if first.kind is SourceKind.HEADER and not first.secret else ""


def names_value(part: str, value: str) -> bool:
    """Whether a part of a bucket's name holds this value, plain or hashed, with or without its source."""
    if not value:
        return part == ANONYMOUS
    return any(part == written or part.endswith(f"={written}") for written in (encode(value), hashed(value)))
