"""Message heads as both lanes return them: the plain lane (edge/plain_head) and the general one (edge/engine).

`lines` holds the lines to forward: the start line and each field line without its line end. Fields with a meaning to
the sidecar are in `special` by their name in lower case, whether they are forwarded or not.
"""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from sidegate.edge.failures import Failure
from sidegate.edge.field_names import FieldNames


class Framing(Enum):
    """The end of a body without Content-Length."""

    NONE = "no body"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "with the connection"


# A number is a Content-Length in bytes.
BodyLength = Framing | int

NO_BODY, CHUNKED, UNTIL_CLOSE = Framing.NONE, Framing.CHUNKED, Framing.UNTIL_CLOSE


class RequestTraits(NamedTuple):
    """What only a few requests have. `minor` is HTTP/1.x's version, `persistent` whether the client's connection may
    carry another request (RFC 9112 §9.3), `expects` that the client waits for 100, `websocket` that it asks to upgrade
    to that protocol; `failure` why the request is not taken although its bytes can be parsed.
    """

    minor: int = 1
    persistent: bool = True
    expects: bool = False
    websocket: bool = False
    failure: Failure | None = None


PLAIN_TRAITS = RequestTraits()


class RequestHead:
    """One request's head. Fulfils `decision.request.Fields`: values are decoded when they are first needed."""

    __slots__ = ("_all", "framing", "lines", "method", "names", "raw", "special", "target", "traits")

    def __init__(
        self,
        method: str,
        target: str,
        lines: list[bytes],
        special: dict[str, list[bytes]],
        raw: Sequence[bytes],
        names: FieldNames,
        framing: BodyLength = NO_BODY,
        traits: RequestTraits = PLAIN_TRAITS,
    ) -> None:
        self.method = method
        self.target = target
        self.lines = lines
        self.special = special
        self.raw = raw  # all field lines as they came
        self.framing = framing
        self.traits = traits
        self.names = names
        self._all: dict[str, list[str]] | None = None

    def getall(self, name: str, default: Sequence[str]) -> Sequence[str]:
        """All values of a field, as decoded from UTF-8 with surrogate escapes, without white space at their ends."""
        lowered = name.lower()
        values = self.special.get(lowered)
        if values is not None:
            if len(values) == 1:
                return (values[0].decode("utf-8", "surrogateescape"),)
            return [value.decode("utf-8", "surrogateescape") for value in values]
        return default if lowered in self.names.recorded else self._index().get(lowered, default)

    def get(self, name: str) -> str:
        """The first value of a field; empty where it is absent."""
        values = self.getall(name, ())
        return values[0] if values else ""

    def _index(self) -> dict[str, list[str]]:
        if self._all is None:
            found = self._all = {}
            for line in self.raw:
                name, _, value = line.decode("utf-8", "surrogateescape").partition(":")
                found.setdefault(name.lower(), []).append(value.strip(" \t"))
        return self._all


class ResponseHead:
    """One answer's head. `lines` begins with the status line. `persistent`: the connection may carry another answer."""

    __slots__ = ("announced", "dated", "framing", "lines", "persistent", "status", "websocket")

    def __init__(
        self,
        status: int,
        lines: list[bytes],
        framing: BodyLength,
        *,
        dated: bool,
        persistent: bool = True,
        websocket: bool = False,
        announced: bytes = b"",
    ) -> None:
        self.status = status
        self.lines = lines
        self.framing = framing
        self.dated = dated  # whether it has a Date field
        self.persistent = persistent
        self.websocket = websocket  # whether a 101 agrees to this protocol
        self.announced = announced  # Content-Length of an answer without body (HEAD, 304)


class _NoFields:
    """The fields of bytes that are not known to be a request."""

    def getall(self, _: str, default: Sequence[str]) -> Sequence[str]:
        """None of any name."""
        return default


no_fields = _NoFields()
