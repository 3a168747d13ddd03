"""Caches of what peers send are bounded in bytes, not only in entries."""

import tracemalloc
from collections.abc import Callable

import pytest
from sidegate.config import compile_policies, parse
from sidegate.decision.policy import PolicySet
from sidegate.edge.error_pages import quality
from sidegate.edge.field_names import FieldNames, removable, request_names
from sidegate.edge.forwarded import continued
from sidegate.edge.plain_head import valid_hosts
from sidegate.edge.rewrite import status_line

from tests.decision.asked import facts

LONG_CHARS = 30_000
VALUES = 400  # all of them take 12 MB
MOST_BYTES = 4 * 2**20

NAMES: FieldNames = request_names(())


def policies(key: str) -> PolicySet:
    written = f"client_ip: {{trusted_proxies: [192.0.2.0/24]}}\npolicies: [{{name: p, key: '{key}', limit: 1/s}}]"
    return compile_policies(parse(written, "c.yaml", {}))


def keyed(key: str, name: str, before: str = "") -> Callable[[str], object]:
    """Reads a key from requests whose field `name`, or target if that is empty, holds the value."""
    compiled = policies(key)
    if not name:
        return lambda value: compiled.applying(facts(target=before + value))
    return lambda value: compiled.applying(facts((name, before + value), peer="192.0.2.1"))


READERS: dict[str, Callable[[str], object]] = {
    "token": keyed("header:Authorization", "Authorization", "Bearer "),
    "parameters": keyed("header:Authorization", "Authorization", "Digest a=b,c="),
    "field": keyed("header:X-User-ID", "X-User-ID"),
    "cookie": keyed("cookie:sid", "Cookie", "sid="),
    "host": keyed("host", "Host"),
    "address": keyed("client_ip", "X-Forwarded-For"),
    "path": keyed("path", "", "/"),
    "query": keyed("query:user", "", "/?user="),
    "Accept": lambda value: quality(value, "text/html"),
    "reason": lambda value: status_line(200, value),
    "Connection": lambda value: removable(NAMES, value.encode()),
    "name": lambda value: NAMES[value.encode()],
    "Host": lambda value: valid_hosts[value.encode()],
    "Forwarded": lambda value: continued({"x-forwarded-for": [value.encode()]}, b"192.0.2.1", b"a.test", b"http"),
}


@pytest.mark.slow
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_long_values_of_peers_are_not_kept(read: Callable[[str], object]) -> None:
    read("warm")
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(VALUES):
            read(f"{number}".rjust(LONG_CHARS, "x"))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < MOST_BYTES
