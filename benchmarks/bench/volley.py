"""A short volley before each measurement, answered by exact status: wrk counts what failed, but not how.

It also warms up: connections of the proxy to upstream and store exist when the measurement begins.
"""

import asyncio
from collections import Counter

_PATIENCE_S = 10.0


class WrongAnswers(Exception):
    """The answers were not what was to be measured: their cost means nothing."""


def expect_only(status: int, port: int, path: str, connections: int) -> None:
    """Send a short volley. Raises WrongAnswers where any answer is another one."""
    found = statuses(port, path, connections, 3)
    if found.keys() != {status}:
        raise WrongAnswers(f"statuses {dict(found)} where {status} was expected")


def statuses(port: int, path: str, connections: int, requests: int) -> Counter[int]:
    """Send `requests` on each of `connections` at once; how often each status came. Raises WrongAnswers."""
    try:
        return asyncio.run(_volley(port, path, connections, requests))
    except (OSError, EOFError, TimeoutError) as error:
        raise WrongAnswers(f"a connection ended without its answer: {error!r}") from error


async def _volley(port: int, path: str, connections: int, requests: int) -> Counter[int]:
    found: Counter[int] = Counter()
    async with asyncio.timeout(_PATIENCE_S):
        await asyncio.gather(*(_converse(port, path, requests, found) for _ in range(connections)))
    return found


async def _converse(port: int, path: str, requests: int, found: Counter[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(requests):
        found[await ask(reader, writer, path)] += 1
    writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> int:
    """Send one request and read its answer to the end; returns the status."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-User-ID: bench\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b"transfer-encoding: chunked" in head:
        while await reader.readuntil(b"\r\n") != b"0\r\n":
            pass
        await reader.readline()
    elif b"content-length:" in head:
        await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
    return int(head.split(b" ", 2)[1])
