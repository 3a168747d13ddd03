"""The Forwarded field of a request to the application (RFC 7239): what X-Forwarded-* say, in the standard's form.

Some applications prefer it to X-Forwarded-* (Rack 3 does), so both must agree. The host and the scheme stand in the
element of the hop nearest to the client, and nowhere else: readers of the first element and readers of the last
value get the same.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from sidegate.edge.plain_head import valid_hosts

# Bounds the work for one request, as the walk through X-Forwarded-For does: no chain of proxies is longer.
MOST_NODES = 32
# No address with zone and port is longer.
LONGEST_NODE_BYTES = 64

_V4 = re.compile(rb"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_WITH_PORT = re.compile(rb"[0-9]{1,3}(?:\.[0-9]{1,3}){3}:[0-9]{1,5}|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")
_V6 = re.compile(rb"(?=[^:]*:[^:]*:)[0-9A-Fa-f:.]{2,45}")


@lru_cache(4096)
def node(address: bytes) -> bytes:
    """An address as a `for` parameter; `unknown` for any other text (RFC 7239 §6.2)."""
    if _V4.fullmatch(address):
        return b"for=%b" % address
    if _WITH_PORT.fullmatch(address):
        return b'for="%b"' % address
    return b'for="[%b]"' % address if _V6.fullmatch(address) else b"for=unknown"


def first_element(peer: bytes, host: bytes, scheme: bytes) -> bytes:
    """The field for a request that comes from its client; `host` is a valid Host value or the upstream's."""
    return b'%b;host="%b";proto=%b' % (node(peer), host, scheme)


def continued(special: dict[str, list[bytes]], peer: bytes, host: bytes, scheme: bytes) -> bytes:
    """The field for a request from a trusted proxy: its own continued, or else its X-Forwarded-For in this form.

    `host` and `scheme` are what X-Forwarded-Host and -Proto say; what is not valid here is left out.
    """
    if "forwarded" in special:
        return b"%b, %b" % (b", ".join(special["forwarded"]), node(peer))
    nodes = _nodes(special["x-forwarded-for"]) if "x-forwarded-for" in special else []
    nodes.append(node(peer))
    if valid_hosts[host]:
        nodes[0] = b'%b;host="%b"' % (nodes[0], host)
    if scheme.isalpha():
        nodes[0] = b"%b;proto=%b" % (nodes[0], scheme)
    return b", ".join(nodes)


def _nodes(values: Sequence[bytes]) -> list[bytes]:
    entries = (values[0] if len(values) == 1 else b",".join(values)).rsplit(b",", MOST_NODES)[-MOST_NODES:]
    stripped = [entry.strip(b" \t") for entry in entries]
    return [node(entry) if len(entry) <= LONGEST_NODE_BYTES else b"for=unknown" for entry in stripped]
