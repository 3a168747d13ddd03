"""Reads requests from one client's connection. No I/O: bytes in, heads and body bytes out.

Theory of operation. The reader is in one of three states:

    HEAD ── read_head returns a head ──► BODY ── its last byte ──► ENDED ── set by the caller ──► HEAD
                     └── a head without body ───────────────────────┘

A head that is one segment of the plain lane's grammar is read there. Any other is collected up to its empty line while
llhttp reads along, so that nonsense is refused at its first byte and not at a deadline. In BODY the framing that the
head announced decides where the message ends. In ENDED nothing is parsed: what has come behind the message
(pipelining) is held until the caller sets `state` to HEAD, and the caller stops reading meanwhile.

Whether the connection may be used again is in `RequestHead.traits.persistent`, and holds once the state is ENDED: then
the next byte is the first of the next message. A reader that has raised is of no use any more.

Beyond llhttp's rules, a request is refused where another parser may read it otherwise: RFC 9112 §3 (the request line),
§3.2 (Host, the forms of targets), §6.1 (Transfer-Encoding); RFC 9110 §7.6.2 (Max-Forwards), §10.1.1 (Expect).
"""

import re
from enum import Enum

from sidegate.edge.body_framing import Body, ChunkedBody, CountedBody
from sidegate.edge.engine import EngineError, ParsedRequest, RequestEngine
from sidegate.edge.failures import BadMessage, BadRequestHead, Failure
from sidegate.edge.field_names import FieldNames, removable
from sidegate.edge.heads import CHUNKED, NO_BODY, BodyLength, RequestHead, RequestTraits
from sidegate.edge.plain_head import MOST_LENGTH_DIGITS, plain_request, valid_hosts
from sidegate.edge.rewrite import names_host, origin_form

# Bounds the work for the options of Connection; a request needs three at most.
MOST_OPTIONS = 100
# A head longer than this is parsed once it is whole: until then llhttp would hold a second copy of it.
LONGEST_READ_ALONG_BYTES = 4096

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([^ ]+) HTTP/([0-9])\.([0-9])")
_COUNTED_METHODS = frozenset({"TRACE", "OPTIONS"})


class RequestState(Enum):
    """What the reader reads next."""

    HEAD = "a head"
    BODY = "a body"
    ENDED = "nothing: the message has ended"


_HEAD, _BODY, _ENDED = RequestState.HEAD, RequestState.BODY, RequestState.ENDED


class RequestReader:
    """See the module's text. `names` are the field names of the configuration in force when a head arrives."""

    __slots__ = ("_body", "_engine", "_fed", "_longest_head_bytes", "_searched", "held", "state")

    def __init__(self, longest_head_bytes: int) -> None:
        self._longest_head_bytes = longest_head_bytes
        self._engine: RequestEngine | None = None
        self._fed = 0  # how much of `held` the engine has read
        self._searched = 0  # how far no end of a head was found in it
        self._body: Body | None = None
        self.held = b""
        self.state = _HEAD

    def read_head(self, data: bytes, names: FieldNames) -> RequestHead | None:
        """The next request's head, or None until it is whole. Raises BadRequestHead where there can be none."""
        if not self.held:
            head = plain_request(data, names)
            if head is not None and len(data) <= self._longest_head_bytes:
                self.state = _ENDED
                return head
        return self._general_head(data, names)

    def read_body(self, data: bytes) -> bytes:
        """The bytes of the body in `data`; the state is ENDED with its last one. Raises BadMessage."""
        if self._body is None:
            raise BadMessage("there is no body")
        content = self._body.take(data)
        if self._body.ended:
            self.held += self._body.rest
            self._body = None
            self.state = _ENDED
        return content

    def hold(self, data: bytes) -> None:
        """Keep bytes that have come behind the message."""
        self.held += data

    def _general_head(self, data: bytes, names: FieldNames) -> RequestHead | None:
        held = self.held = self.held + data
        while not self._searched and held.startswith(b"\r\n"):  # RFC 9112 §2.2: empty lines before a request
            held = self.held = held[2:]
        if held in (b"", b"\r"):
            return None
        end = held.find(b"\r\n\r\n", self._searched)
        if max(end, len(held) - 4 if end < 0 else 0) > self._longest_head_bytes:
            raise BadRequestHead(Failure.HEAD_TOO_LARGE)
        self._searched = max(0, len(held) - 3)
        try:
            if end < 0:
                self._read_along(held)
                return None
            engine = self._engine or RequestEngine(self._longest_head_bytes)
            parsed = engine.parse(held[self._fed : end + 4])
        except EngineError as error:
            raise BadRequestHead(Failure.HEAD_TOO_LARGE if error.too_long else Failure.BAD_REQUEST) from error
        self._engine, self._fed, self._searched = None, 0, 0
        self.held = held[end + 4 :]
        head = _head_of(held[:end], parsed, names)
        self._begin_body(head, names)
        return head

    def _read_along(self, held: bytes) -> None:
        """Let llhttp check the beginning of a head. It keeps a copy, so that a long one is only held and read later."""
        if len(held) > LONGEST_READ_ALONG_BYTES:
            self._engine, self._fed = None, 0
            return
        if self._engine is None:
            self._engine = RequestEngine(self._longest_head_bytes)
        self._engine.feed(held[self._fed :])
        self._fed = len(held)

    def _begin_body(self, head: RequestHead, names: FieldNames) -> None:
        framing = head.framing
        if framing is NO_BODY or framing == 0 or head.traits.failure is not None:
            self.state = _ENDED
            return
        self.state = _BODY
        self._body = CountedBody(framing) if isinstance(framing, int) else ChunkedBody(names)


def _head_of(raw: bytes, parsed: ParsedRequest, names: FieldNames) -> RequestHead:
    line, _, rest = raw.partition(b"\r\n")
    start = _LINE.fullmatch(line)
    if start is None:
        raise BadRequestHead(Failure.BAD_REQUEST)
    special: dict[str, list[bytes]] = {}
    roles = [names[name] for name, _ in parsed.fields]
    for (_, value), role in zip(parsed.fields, roles, strict=True):
        if role is not None:
            special.setdefault(role.name, []).append(value)
    listed = b",".join(special.get("connection", ()))
    if listed.count(b",") >= MOST_OPTIONS:
        raise BadRequestHead(Failure.BAD_REQUEST)
    removed = removable(names, listed)
    kept = [
        b"%b: %b" % (name, value)
        for (name, value), role in zip(parsed.fields, roles, strict=True)
        if (role.sent_on if role is not None else name.lower() not in removed)
    ]
    origin, authority = origin_form(parsed.target)
    kept.insert(0, b"%b %b HTTP/1.1" % (start[1], origin.encode("utf-8", "surrogateescape")))
    traits, framing = _traits(parsed, int(start[3]), int(start[4]), special)
    if authority:
        special["host"] = [authority]
    return RequestHead(parsed.method, parsed.target, kept, special, rest.split(b"\r\n"), names, framing, traits)


def _traits(
    parsed: ParsedRequest, major: int, minor: int, special: dict[str, list[bytes]]
) -> tuple[RequestTraits, BodyLength]:
    options = {option.strip(b" \t").lower() for option in b",".join(special.get("connection", ())).split(b",")}
    framing, framing_failure = _framing(special, minor)
    expects = [value.lower() for value in special.get("expect", ())]
    traits = RequestTraits(
        minor=minor,
        persistent=b"close" not in options and (minor == 1 or b"keep-alive" in options),
        expects=bool(expects),
        # RFC 6455 §4.1: a GET of HTTP/1.1, and no body.
        websocket=b"upgrade" in options
        and [value.lower() for value in special.get("upgrade", ())] == [b"websocket"]
        and (parsed.method, major, minor) == ("GET", 1, 1)
        and (framing is NO_BODY or framing == 0),
        failure=_failure(parsed, major, minor, special) or framing_failure or _unmet(expects),
    )
    return traits, framing


def _failure(parsed: ParsedRequest, major: int, minor: int, special: dict[str, list[bytes]]) -> Failure | None:
    """Why the head is not taken, apart from its framing."""
    if major != 1 or minor > 1:
        return Failure.VERSION
    if parsed.method == "CONNECT":
        return Failure.CONNECT
    hosts = special.get("host", [])
    if len(hosts) > 1 or (minor == 1 and not hosts) or any(not valid_hosts[host] for host in hosts):
        return Failure.BAD_REQUEST
    host = hosts[0].decode("ascii") if hosts else None
    if not parsed.target.startswith("/") and not names_host(parsed.target, host):
        return Failure.BAD_REQUEST
    hops = special.get("max-forwards", ())
    if parsed.method in _COUNTED_METHODS and hops and not (len(hops) == 1 and hops[0].isdigit()):
        return Failure.BAD_REQUEST
    return None


def _framing(special: dict[str, list[bytes]], minor: int) -> tuple[BodyLength, Failure | None]:
    lengths, codings = special.get("content-length", []), special.get("transfer-encoding", [])
    if codings:
        # Also one that llhttp makes nothing of, such as an empty one: another parser might.
        clear = len(codings) == 1 and codings[0].lower() == b"chunked" and minor == 1 and not lengths
        return (CHUNKED, None) if clear else (NO_BODY, Failure.BAD_REQUEST)
    if not lengths:
        return NO_BODY, None
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > MOST_LENGTH_DIGITS:
        return NO_BODY, Failure.BAD_REQUEST
    return int(lengths[0]), None


def _unmet(expects: list[bytes]) -> Failure | None:
    return Failure.EXPECTATION if expects and expects != [b"100-continue"] else None
