"""Reads answers from one connection to the application. No I/O: bytes in, heads and body bytes out.

Theory of operation. The caller announces each request with `expect`, and reads its answer:

    HEAD ── an interim head (1xx) ──► HEAD
      └──── a final head ──► BODY ── its last byte, or the connection's end ──► ENDED ── expect ──► HEAD

`reusable` is the verdict on the connection: true only where the answer ended by its own framing, at exactly the last
byte received, and its head was written strictly. A stray byte could otherwise begin the answer to somebody else's
request. Answers to HEAD, and those with status 204 or 304, have no body whatever they announce (RFC 9112 §6.3).

llhttp is lenient with answers, since applications are old: it takes bare line feeds, and folded fields. A white space
before a field's colon is removed (RFC 9112 §5.1). What decides where the body ends is not read leniently.
"""

import re
from enum import Enum

from sidegate.edge.body_framing import Body, ChunkedBody, CountedBody, EndlessBody
from sidegate.edge.engine import EngineError, ParsedResponse, ResponseEngine
from sidegate.edge.failures import BadMessage
from sidegate.edge.field_names import FieldNames, removable
from sidegate.edge.heads import CHUNKED, NO_BODY, UNTIL_CLOSE, BodyLength, ResponseHead
from sidegate.edge.plain_head import MOST_LENGTH_DIGITS, plain_response
from sidegate.edge.rewrite import status_line

# The head of an answer may be at most this long.
LONGEST_HEAD_BYTES = 256 * 1024

_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?")
_END = re.compile(rb"\n\r?\n")
_SPACE_BEFORE_COLON = re.compile(rb"\n([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]+:")
_FRAMES = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_BODYLESS = frozenset({204, 304})


class ResponseState(Enum):
    """What the reader reads next."""

    HEAD = "a head"
    BODY = "a body"
    ENDED = "nothing: the answer has ended, or none is expected"


_HEAD, _BODY, _ENDED = ResponseState.HEAD, ResponseState.BODY, ResponseState.ENDED


class ResponseReader:
    """See the module's text. `begun`: some byte of the present answer has come."""

    __slots__ = ("_body", "_held", "_names", "_searched", "_strict", "begun", "content", "head_only", "state")

    def __init__(self, names: FieldNames) -> None:
        self._names = names
        self._held = b""
        self._searched = 0  # how far no end of a head was found in it
        self._body: Body | None = None
        self._strict = True
        self.begun = False
        self.content = b""
        self.head_only = False
        self.state = _ENDED

    def expect(self, head_only: bool) -> None:
        """An answer comes next; `head_only` for one to HEAD. The last one was whole and in order."""
        self.head_only = head_only
        self.begun = False
        self.state = _HEAD

    def read_head(self, data: bytes) -> ResponseHead | None:
        """The next head, or None until it is whole; `content` then holds what has come of the body. Raises BadMessage.

        Call it with b"" again after an interim head: the final one may have come with it.
        """
        self.begun = True
        if not self._held and not self.head_only:
            plain = plain_response(data, self._names)
            if plain is not None:
                head, self.content = plain
                self.state = _ENDED
                return head
        return self._general_head(data)

    def read_body(self, data: bytes) -> bytes:
        """The bytes of the body in `data`; the state is ENDED with its last one. Raises BadMessage."""
        body = self._body
        if body is None:
            raise BadMessage("there is no body")
        content = body.take(data)
        if body.ended:
            self._held = body.rest
            self._body = None
            self.state = _ENDED
        return content

    def hold(self, data: bytes) -> None:
        """Record that bytes came behind the answer: they are dropped, and the connection is not used again."""
        self._held = self._held or data[:1]

    def end_of_input(self, error: BaseException | None) -> None:
        """The connection has ended, by `error` or in order. Order completes a body without length; all else raises
        BadMessage.
        """
        if error is not None or self.state is _HEAD or not isinstance(self._body, EndlessBody):
            raise BadMessage(str(error or "the application closed the connection before its answer had ended"))
        self._strict = False
        self.state = _ENDED

    def take_rest(self) -> bytes:
        """What has come behind a head that switches protocols."""
        rest, self._held = self._held, b""
        return rest

    @property
    def reusable(self) -> bool:
        """See the module's text."""
        return self._strict and self.state is _ENDED and not self._held

    def _general_head(self, data: bytes) -> ResponseHead | None:
        held = self._held = self._held + data
        end = _END.search(held, self._searched)
        if (end.end() if end else len(held)) > LONGEST_HEAD_BYTES:
            raise BadMessage("the head of the answer is too large")
        if end is None:
            self._searched = max(0, len(held) - 3)
            _check_beginning(held)
            return None
        self._searched = 0
        raw, self._held = held[: end.end()], held[end.end() :]
        head = self._head_of(raw)
        if head.status >= 200:
            self._begin_body(head)
        return head

    def _begin_body(self, head: ResponseHead) -> None:
        framing, rest = head.framing, self._held
        self._held = self.content = b""
        self._strict = self._strict and head.persistent
        if framing is NO_BODY or framing == 0:
            self._held = rest
            self.state = _ENDED
            return
        self.state = _BODY
        if isinstance(framing, int):
            self._body = CountedBody(framing)
        else:
            self._body = ChunkedBody(self._names) if framing is CHUNKED else EndlessBody()
        if rest:
            self.content = self.read_body(rest)

    def _head_of(self, raw: bytes) -> ResponseHead:
        start = _LINE.fullmatch(raw.partition(b"\n")[0].removesuffix(b"\r"))
        if start is None:
            raise BadMessage("the answer's status line is invalid")
        self._strict = self._strict and raw.count(b"\n") == raw.count(b"\r\n") and b"\n " not in raw
        try:
            parsed = ResponseEngine().parse(_SPACE_BEFORE_COLON.sub(_without_space, raw))
        except EngineError as error:
            raise BadMessage(str(error)) from error
        return _head_from(parsed, self._names, minor=int(start[1]), head_only=self.head_only)


def _head_from(parsed: ParsedResponse, names: FieldNames, *, minor: int, head_only: bool) -> ResponseHead:
    special: dict[str, list[bytes]] = {}
    for name, value in parsed.fields:
        if (role := names[name]) is not None:
            special.setdefault(role.name, []).append(value)
    listed = b",".join(special.get("connection", ()))
    removed = removable(names, listed)
    lines = [status_line(parsed.status, parsed.reason)]
    for name, value in parsed.fields:
        role = names[name]
        if role.sent_on if role is not None else name.lower() not in removed:
            lines.append(b"%b: %b" % (name, value))
    options = {option.strip(b" \t").lower() for option in listed.split(b",")}
    framing = _framing(parsed.status, special, head_only=head_only)
    close = framing is UNTIL_CLOSE or b"close" in options or (minor == 0 and b"keep-alive" not in options)
    return ResponseHead(
        parsed.status,
        lines,
        framing,
        dated="date" in special,
        persistent=not close,
        websocket=b"upgrade" in options and [value.lower() for value in special.get("upgrade", ())] == [b"websocket"],
        announced=special["content-length"][0] if "content-length" in special else b"",
    )


def _framing(status: int, special: dict[str, list[bytes]], *, head_only: bool) -> BodyLength:
    lengths, codings = special.get("content-length", []), special.get("transfer-encoding", [])
    if lengths and (len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > MOST_LENGTH_DIGITS):
        raise BadMessage("the answer's Content-Length is invalid")
    if codings and (lengths or [coding.lower() for coding in codings] != [b"chunked"]):
        raise BadMessage("the answer's Transfer-Encoding is unknown, or stands beside a Content-Length")
    if head_only or status < 200 or status in _BODYLESS:
        return NO_BODY
    if codings:
        return CHUNKED
    return int(lengths[0]) if lengths else UNTIL_CLOSE


def _without_space(match: "re.Match[bytes]") -> bytes:
    name = match[1]
    if name.lower() in _FRAMES:
        raise BadMessage("white space before the colon of a field that frames the answer")
    return b"\n%b:" % name


def _check_beginning(held: bytes) -> None:
    """Raise BadMessage for bytes that can become no status line, so that they are not waited for."""
    line, end, _ = held.partition(b"\n")
    text = line.removesuffix(b"\r")
    if (not _LINE.fullmatch(text)) if end else not b"HTTP/1.".startswith(text[:7]):
        raise BadMessage("the answer's status line is invalid")
