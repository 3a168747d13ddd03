"""Requests and policies for tests, in few words."""

from ipaddress import ip_network

from multidict import CIMultiDict
from sidegate.decision.bucket import Limit, Rate
from sidegate.decision.identity import ClientAddress, Key, KeySource, SourceKind
from sidegate.decision.policy import Policy, PolicySet
from sidegate.decision.request import RequestFacts

MINUTELY = Limit(Rate(1, 6_000_000), 15, 10, 3_600_000)
# Its peers may speak for others, as in the demonstration.
LOOPBACK = ClientAddress((ip_network("127.0.0.0/8"), ip_network("::1/128")))


def facts(
    *fields: tuple[str, str], method: str = "GET", target: str = "/api/data", peer: str = "192.0.2.7"
) -> RequestFacts:
    """One request."""
    return RequestFacts(method, target, CIMultiDict(fields), peer)


def source(text: str) -> KeySource:
    """A key source as the configuration writes it."""
    kind, _, name = text.partition(":")
    return KeySource(SourceKind(kind), name)


def key(*parts: str) -> Key:
    """A key as the configuration writes it: alternatives separated by bars, one string a part."""
    return Key(tuple(tuple(source(text.strip()) for text in part.split("|")) for part in parts))


def bucket_of(request: RequestFacts, *parts: str, addresses: ClientAddress = LOOPBACK) -> str:
    """The name of a request's bucket under policy `p`, whose key is `parts`."""
    (applied,) = PolicySet([Policy("p", key=key(*parts), limit=MINUTELY)], addresses, "example:").applying(request)
    assert applied.charge is not None
    return applied.charge.key
