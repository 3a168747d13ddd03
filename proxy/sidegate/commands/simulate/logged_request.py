"""A request as an access log holds it, and the parts of a line that several formats share.

What a log does not contain is absent from the request.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

from sidegate.commands.simulate.log_format import LogFormat
from sidegate.decision.request import RequestFacts

# Proxies that log a list of hops usually have addresses of these networks.
_PRIVATE = [
    ip_network(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
]
_WITH_PORT = re.compile(r"([0-9.]+):[0-9]+|\[([^\]]+)\](?::[0-9]+)?")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]+)(.*)", re.DOTALL)


class BadLine(Exception):
    """The line contains no request that can be replayed. The text is the reason; it does not vary with the line."""


class LoggedFields:
    """The header fields of one logged request. Implements `RequestFacts.fields`."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        """`values` is by name in lower case."""
        self._values = values

    def getall(self, name: str, default: Sequence[str]) -> Sequence[str]:
        return self._values.get(name.lower(), default)

    def names(self) -> Sequence[str]:
        """Return the names of all fields, in lower case."""
        return tuple(self._values)


class LoggedRequest(NamedTuple):
    """One logged request: `time_us` since 1970 UTC, and the `status` of its response (0 if not logged)."""

    time_us: int
    zone_known: bool
    facts: RequestFacts
    fields: LoggedFields
    status: int
    format: LogFormat = LogFormat.COMBINED


class LoggedClient(NamedTuple):
    """The peer of a logged request, and the hops before it as a value of X-Forwarded-For ("" if there are none)."""

    peer: str
    forwarded_for: str = ""


def request_line(text: str) -> tuple[str, str]:
    """Split `GET /path HTTP/1.1` into method and target. Raises BadLine."""
    parts = text.split(" ")
    if len(parts) == 2:
        parts.append("HTTP/")  # some formats omit the version
    if len(parts) != 3 or not parts[2].startswith("HTTP/"):
        raise BadLine("invalid request line")
    return valid_request(parts[0], parts[1])


def valid_request(method: str, target: str) -> tuple[str, str]:
    """Return the arguments if a request can be made of them. Raises BadLine."""
    if not method.isascii() or not method.isupper() or " " in method:
        raise BadLine("invalid method")
    if not (target.startswith("/") or "://" in target or target == "*") or " " in target:
        raise BadLine("invalid request target")
    return method, target


def origin_form(target: str) -> tuple[str, str]:
    """Split the URL that a load balancer logs into a target in origin form and the host; "" if it is not a URL."""
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        return target, ""
    return found[2] if found[2].startswith("/") else f"/{found[2]}", found[1]


def request_of(
    moment: tuple[int, bool], request: tuple[str, str], client: str, fields: dict[str, Sequence[str]], status: int,
    form: LogFormat,
) -> LoggedRequest:  # fmt: skip
    """Build a request. `moment` is its time in µs and whether its offset from UTC is known, `client` may be a list."""
    (time_us, zone_known), (method, target) = moment, request
    if not target.startswith("/"):
        target, host = origin_form(target)
        if host:
            fields.setdefault("host", (host,))
    peer, forwarded_for = client_of(client)
    if forwarded_for:
        fields.setdefault("x-forwarded-for", (forwarded_for,))
    logged = LoggedFields(fields)
    return LoggedRequest(time_us, zone_known, RequestFacts(method, target, logged, peer), logged, status, form)


@lru_cache(16_384)
def client_of(text: str) -> LoggedClient:
    """Read a logged client: an address, or a list of hops as in X-Forwarded-For.

    In a list, private addresses at the right are taken for proxies between client and log; the first other address from
    the right is the peer, else the leftmost entry.
    """
    if "," not in text:
        return LoggedClient(without_port(text))
    hops = [without_port(hop.strip()) for hop in text.split(",")]
    position = next((index for index in range(len(hops) - 1, -1, -1) if _is_public(hops[index])), 0)
    return LoggedClient(hops[position], ", ".join(hops[:position]))


def without_port(client: str) -> str:
    """Return a logged address without port, brackets and prefix length."""
    if (with_port := _WITH_PORT.fullmatch(client)) is not None:
        return with_port[1] or with_port[2]
    return client.partition("/")[0]


def is_address(client: str) -> bool:
    """Whether the text is an IP address."""
    return _address(client) is not None


def _is_public(client: str) -> bool:
    address = _address(client)
    return address is not None and not any(address in network for network in _PRIVATE)


@lru_cache(16_384)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None
