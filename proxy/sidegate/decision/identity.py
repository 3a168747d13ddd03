"""Who is asking: key sources, the client's address, and how a value becomes part of a bucket's name."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote_from_bytes, unquote_to_bytes

from sidegate.decision.request import BadRequest, RequestFacts, paths_of, query_part

Network = IPv4Network | IPv6Network

# A bucket's name stays short whatever a client sends: longer values are stored as a 128-bit BLAKE2b hash.
LONGEST_VALUE_BYTES = 96
# Values of these fields are secrets; their buckets carry a hash only.
SECRET_FIELDS = frozenset({"authorization", "cookie", "x-api-key"})
# No address is longer, zone and all; longer entries of X-Forwarded-For are not looked at, and not remembered.
LONGEST_ADDRESS_CHARS = 64
# The bucket of requests that show none of a key's sources: shared by them all, never a free pass.
ANONYMOUS = "anonymous"
# How a client's address begins as a value of a later alternative.
CLIENT_LABEL = "client_ip="

_PLAIN = re.compile(r"[A-Za-z0-9._~@+-]{1,96}")


class SourceKind(Enum):
    """Where a key's value is read."""

    HEADER = "header"
    CLIENT_IP = "client_ip"
    PATH = "path"
    QUERY = "query"
    COOKIE = "cookie"
    METHOD = "method"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class KeySource:
    """One source: `name` is the field, parameter or cookie, or the 1-based segment of `path:N`; else empty."""

    kind: SourceKind
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.name}" if self.name else self.kind.value

    @property
    def field(self) -> str | None:
        """The header field that is read, in lower case; None where none is."""
        match self.kind:
            case SourceKind.HEADER:
                return self.name.lower()
            case SourceKind.COOKIE:
                return "cookie"
            case _:
                return None

    @property
    def secret(self) -> bool:
        """Whether its values may be stored as a hash only."""
        return self.kind is SourceKind.COOKIE or (self.kind is SourceKind.HEADER and self.name.lower() in SECRET_FIELDS)


@dataclass(frozen=True, slots=True)
class Key:
    """How a policy names its buckets: each part is a list of alternatives, of which the first present one counts."""

    parts: tuple[tuple[KeySource, ...], ...]

    def __str__(self) -> str:
        return ", ".join(" | ".join(map(str, alternatives)) for alternatives in self.parts)


@dataclass(frozen=True, slots=True)
class ClientAddress:
    """How the client's address is found: which peers may speak for others, and how IPv6 is grouped."""

    trusted: tuple[Network, ...] = ()
    ipv6_prefix: int = 64


# Reads one part of a key: its text in the bucket's name, and the value it was made of ("" where nothing was present).
PartReader = Callable[[RequestFacts], tuple[str, str]]


class Identity:
    """Reads key values from requests. Keeps nothing of a request but bounded caches of addresses."""

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
                self._value_reader(source, ignore_case),
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
        return _read_header_first(first.name, read) if first.kind is SourceKind.HEADER and not first.secret else read

    def _value_reader(self, source: KeySource, ignore_case: bool) -> Callable[[RequestFacts], str | None]:
        name = source.name
        match source.kind:
            case SourceKind.HEADER:
                return lambda facts: _header(facts, name)
            case SourceKind.CLIENT_IP:
                return self.client_group
            case SourceKind.PATH:
                return lambda facts: _path(facts, name, ignore_case)
            case SourceKind.QUERY:
                return lambda facts: _query(facts, name)
            case SourceKind.COOKIE:
                return lambda facts: _cookie(facts, name)
            case SourceKind.METHOD:
                return lambda facts: facts.method
            case SourceKind.HOST:
                return host_of

    def client_ip(self, facts: RequestFacts) -> IPv4Address | IPv6Address:
        """The client's address: X-Forwarded-For read from the right, past trusted proxies only.

        A malformed entry ends the walk at the last trusted hop. IPv4-mapped IPv6 is IPv4.
        """
        address = _address(facts.peer)
        if address is None:
            return IPv4Address(0)  # a Unix socket's peer has no address; all of them are one client
        if not self._addresses.trusted or not self._trusts(address):
            return address
        for value in reversed(facts.fields.getall("X-Forwarded-For", ())):
            for entry in reversed(value.split(",")):
                text = entry.strip(" \t")
                hop = _address(text) if len(text) <= LONGEST_ADDRESS_CHARS else None
                if hop is None:
                    return address
                address = hop
                if not self._trusts(address):
                    return address
        return address

    def client_group(self, facts: RequestFacts) -> str:
        """The client's address as a key: IPv4 as it is, IPv6 as its network."""
        address = self.client_ip(facts)
        if isinstance(address, IPv6Address) and self._addresses.ipv6_prefix < 128:
            return str(ip_network((address, self._addresses.ipv6_prefix), strict=False))
        return str(address)

    def _trusts_peer(self, peer: str) -> bool:
        """Whether a peer may speak for others."""
        address = _address(peer)
        return address is not None and self._trusts(address)

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._addresses.trusted)


def is_address(value: str) -> bool:
    """Whether a value is written as a client's address or network."""
    try:
        ip_network(value, strict=False)
    except ValueError:
        return False
    return True


def _label(source: KeySource) -> str:
    """What marks a value of a later alternative. Names of fields have no case, those of parameters and cookies have."""
    if not source.name:
        return f"{source.kind.value}="
    return f"{source.kind.value}:{encode(source.name.lower() if source.kind is SourceKind.HEADER else source.name)}="


def _read_header_first(name: str, plainly: PartReader) -> PartReader:
    """`plainly`, with a short way for the common key: one header field, present once, of ordinary length."""

    def read(facts: RequestFacts) -> tuple[str, str]:
        values = facts.fields.getall(name, ())
        if len(values) == 1:
            value = values[0].strip(" \t")
            if 0 < len(value) <= LONGEST_VALUE_BYTES:
                return _encode(value), value
        return plainly(facts)

    return read


def encode(value: str) -> str:
    """A value as part of a bucket's name: percent-encoded outside `[A-Za-z0-9._~@+-]`, hashed where it is long.

    Injective, and never equal to ANONYMOUS: a client that sends that very word gets `%61nonymous`.
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
    """A value as its BLAKE2b-128, marked so that no plain value can look like it (`=` is never plain)."""
    return "blake2b=" + blake2b(value.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def host_of(facts: RequestFacts) -> str | None:
    """The Host field in lower case, without port and the dot of a full name; None where it is absent."""
    value = _header(facts, "Host")
    if value is None:
        return None
    host = value.lower()
    return host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0].removesuffix(".")


@lru_cache(4096)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _header(facts: RequestFacts, name: str) -> str | None:
    values = facts.fields.getall(name, ())
    if not values:
        return None
    if len(values) != 1:
        raise BadRequest(f"the field {name} occurs {len(values)} times, but decides a limit")
    return values[0].strip(" \t") or None


def _path(facts: RequestFacts, segment: str, ignore_case: bool) -> str | None:
    path = paths_of(facts.target)[0]
    if ignore_case:
        path = path.lower()
    if not segment:
        return path
    segments = path.split("/")
    return segments[int(segment)] if int(segment) < len(segments) else None


def _query(facts: RequestFacts, name: str) -> str | None:
    found = [
        _decoded(value)
        for key, _, value in (pair.partition("=") for pair in query_part(facts.target).split("&"))
        if _decoded(key) == name
    ]
    if len(found) > 1:
        raise BadRequest(f"the query parameter {name} occurs {len(found)} times, but decides a limit")
    return found[0] if found else None


def _decoded(text: str) -> str:
    raw = text.replace("+", " ").encode("utf-8", "surrogateescape")
    return unquote_to_bytes(raw).decode("utf-8", "surrogateescape")


def _cookie(facts: RequestFacts, name: str) -> str | None:
    pairs = (pair.partition("=") for value in facts.fields.getall("Cookie", ()) for pair in value.split(";"))
    found = [value.strip(' \t"') for key, _, value in pairs if key.strip(" \t") == name]
    if len(found) > 1:
        raise BadRequest(f"the cookie {name} occurs {len(found)} times, but decides a limit")
    return found[0] if found else None
