"""Sends a short volley before each measurement and counts the exact statuses, which wrk does not print.

It also warms the proxy up: its connections to upstream and store exist when the measurement begins.
"""

import asyncio
from collections import Counter

_TIMEOUT_S = 10.0
_USER = "bench"  # as in wrk.run


class WrongAnswers(Exception):
    """The responses are not those that were to be measured, so their cost means nothing."""


def expect_only(status: int, port: int, path: str, connections: int) -> None:
    """Send a short volley. Raises WrongAnswers if any response has another status."""
    found = statuses(port, path, connections, 3)
    if found.keys() != {status}:
        raise WrongAnswers(f"statuses {dict(found)}, expected only {status}")


def statuses(port: int, path: str, connections: int, requests: int, users: int = 0) -> Counter[int]:
    """Send `requests` on each of `connections` at once and count the statuses. Raises WrongAnswers.

    With `users` the requests take as many users in turn, by the names of ingress.lua.
    """
    try:
        return asyncio.run(_volley(port, path, connections, requests, users))
    except (OSError, EOFError, TimeoutError) as error:
        raise WrongAnswers(f"a connection ended before its response: {error!r}") from error


async def _volley(port: int, path: str, connections: int, requests: int, users: int) -> Counter[int]:
    found: Counter[int] = Counter()
    names = [[_user(first + n, users) for n in range(requests)] for first in range(0, connections * requests, requests)]
    async with asyncio.timeout(_TIMEOUT_S):
        await asyncio.gather(*(_send_in_turn(port, path, each, found) for each in names))
    return found


def _user(number: int, users: int) -> str:
    return f"user-{number % users}" if users else _USER


async def _send_in_turn(port: int, path: str, users: list[str], found: Counter[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for user in users:
        found[await ask(reader, writer, path, user)] += 1
    writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, user: str = _USER) -> int:
    """Send one request and read the whole response; returns its status."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-User-ID: {user}\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b"transfer-encoding: chunked" in head:
        while await reader.readuntil(b"\r\n") != b"0\r\n":
            pass
        await reader.readline()
    elif b"content-length:" in head:
        await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
    return int(head.split(b" ", 2)[1])
