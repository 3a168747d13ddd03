"""Request ids: the value by which one request is found in the logs of all servers that it passed.

A client's own id is kept where it is one word of harmless characters: it links log lines and grants nothing, so the
client need not be trusted. Any other value under the name is replaced, and so is the application's in its answer.
"""

import itertools
import re
import secrets
from typing import NamedTuple

from sidegate.edge.heads import RequestHead

# Nothing that could end a line, a log's field or a shell's word; long enough for whatever gateways make.
_HARMLESS = re.compile(r"[A-Za-z0-9._~:@+/=-]{1,128}")


class RequestId(NamedTuple):
    """An id, and the line that carries it."""

    value: str
    line: bytes


class RequestIds:
    """Finds or makes the ids of requests, in a field named `name`."""

    def __init__(self, name: str) -> None:
        self._name = name
        # 64 bits of chance for each process and a count: no two are alike, and none costs a call of the system.
        self._prefix = secrets.token_hex(8)
        self._count = itertools.count(1)

    def of(self, head: RequestHead) -> RequestId:
        """The client's own, or a new one of 32 hexadecimal digits."""
        given = head.getall(self._name, ())
        value = given[0] if len(given) == 1 and _HARMLESS.fullmatch(given[0]) else self._new()
        return RequestId(value, f"{self._name}: {value}\r\n".encode())

    def _new(self) -> str:
        return f"{self._prefix}{next(self._count):016x}"
