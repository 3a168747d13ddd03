"""Request ids: one word by which a request is found again in the logs of everybody it went through.

A client's own is kept where it is one word of harmless characters: it says what belongs together and gives no right, so
it needs no trust. Whatever else a client sends under the name is replaced, and so is what the application answers under
it.
"""

import itertools
import re
import secrets
from typing import NamedTuple

from sidegate.edge.headers import Fields
from sidegate.edge.wire import RequestMessage

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
        self._lowered = name.lower().encode()
        # 64 bits of chance for each process and a count: no two are alike, and none costs a call of the system.
        self._prefix = secrets.token_hex(8)
        self._count = itertools.count(1)

    def of(self, message: RequestMessage) -> RequestId:
        """The client's own, or a new one of 32 hexadecimal digits."""
        given = message.headers.getall(self._name, ())
        value = given[0] if len(given) == 1 and _HARMLESS.fullmatch(given[0]) else self._new()
        return RequestId(value, f"{self._name}: {value}\r\n".encode())

    def without(self, fields: Fields) -> Fields:
        """The fields but those of the name."""
        return [field for field in fields if field[0].lower() != self._lowered]

    def _new(self) -> str:
        return f"{self._prefix}{next(self._count):016x}"
