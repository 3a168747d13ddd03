"""The key of a policy as it is written: sources, alternatives joined by `|`, and lists of them for composite keys."""

import re
from difflib import get_close_matches
from itertools import pairwise

from sidegate.config.faults import Path, Wrong, quote
from sidegate.config.values import ValueKind
from sidegate.decision.identity import Key, KeySource, SourceKind

# Bounds the work of a request, which reads all parts of all keys that apply to it.
MAX_PARTS = 8
MAX_ALTERNATIVES = 8

_LONGEST_SUGGESTED = 64

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2

_NAMED = {
    SourceKind.HEADER: "header:X-User-ID",
    SourceKind.QUERY: "query:user",
    SourceKind.COOKIE: "cookie:session",
}
_ALWAYS_PRESENT = {KeySource(SourceKind.CLIENT_IP), KeySource(SourceKind.PATH), KeySource(SourceKind.METHOD)}
# The names of these sources in other limiters.
_OTHER_NAMES = {
    **dict.fromkeys(("ip", "address", "remote_addr", "remote_address", "client", "source_ip", "peer"), "client_ip"),
    **dict.fromkeys(("url", "uri", "route"), "path"),
    **dict.fromkeys(("param", "parameter", "arg"), "query"),
    **dict.fromkeys(("headers", "field"), "header"),
}
_SEGMENT = re.compile(r"[1-9][0-9]{0,3}")
_QUERY_NAME = re.compile(r"[^\s|&=#]+")

_SOURCE_PATTERN = r"(header:[^\s|]+|cookie:[^\s|]+|query:[^\s|]+|path(:[1-9][0-9]*)?|client_ip|client_cert|method|host)"
_PART_SCHEMA = {"type": "string", "pattern": rf"^\s*{_SOURCE_PATTERN}(\s*\|\s*{_SOURCE_PATTERN})*\s*$"}


class KeyExpression(ValueKind):
    """A key: sources joined by `|`, or a list of such parts."""

    def __init__(self) -> None:
        super().__init__(
            {
                "anyOf": [_PART_SCHEMA, {"type": "array", "items": _PART_SCHEMA, "minItems": 1, "maxItems": MAX_PARTS}],
                "examples": ["header:X-User-ID | client_ip", ["header:X-Tenant", "method"]],
            }
        )

    def read(self, value: object) -> Key:
        """The key. Raises ValueError with a sentence, or Wrong with several."""
        parts = value if isinstance(value, list) else [value]
        if not parts:
            raise ValueError("names no source; expected e.g. header:X-User-ID | client_ip")
        if len(parts) > MAX_PARTS:
            raise ValueError(f"has {len(parts)} parts; at most {MAX_PARTS}")
        read: list[tuple[KeySource, ...]] = []
        faults: list[tuple[Path, str]] = []
        for index, part in enumerate(parts):
            try:
                read.append(_alternatives(part))
            except ValueError as error:
                faults.append(((index,) if isinstance(value, list) else (), str(error)))
        if not faults and len(set(read)) < len(read):
            faults.append(((), "names the same part twice"))
        if faults:
            raise Wrong(faults)
        return Key(tuple(read))

    def write(self, value: Key) -> str | list[str]:
        parts = [" | ".join(map(str, alternatives)) for alternatives in value.parts]
        return parts[0] if len(parts) == 1 else parts


def _alternatives(value: object) -> tuple[KeySource, ...]:
    if not isinstance(value, str):
        raise ValueError(f"{quote(value)} is not a key; expected text, e.g. header:X-User-ID | client_ip")  # noqa: TRY004
    sources = tuple(_source(text.strip()) for text in value.split("|"))
    if len(sources) > MAX_ALTERNATIVES:
        raise ValueError(f"has {len(sources)} alternatives; at most {MAX_ALTERNATIVES}")
    for source, following in pairwise(sources):
        if source in _ALWAYS_PRESENT:
            raise ValueError(f"{following} is never reached: {source} is present in every request")
    if len({str(source).lower() for source in sources}) < len(sources):
        raise ValueError(f"{quote(value)} names the same source twice")
    return sources


def _source(text: str) -> KeySource:
    kind_text, colon, name = text.partition(":")
    try:
        kind = SourceKind(kind_text)
    except ValueError:
        raise ValueError(_unknown(text, kind_text)) from None
    if not colon and kind in _NAMED:
        raise ValueError(f"{quote(text)} needs a name; expected e.g. {_NAMED[kind]}")
    if colon and kind not in _NAMED and kind is not SourceKind.PATH:
        raise ValueError(f"{quote(text)} takes no name; expected {kind.value}")
    if colon:
        _check_name(text, kind, name)
    return KeySource(kind, name)


def _check_name(text: str, kind: SourceKind, name: str) -> None:
    match kind:
        case SourceKind.PATH:
            if not _SEGMENT.fullmatch(name):
                raise ValueError(f"{quote(text)} does not number a segment; the first one is path:1")
        case SourceKind.QUERY:
            if not _QUERY_NAME.fullmatch(name):
                raise ValueError(f"{quote(text)} does not name a parameter; expected e.g. {_NAMED[kind]}")
        case _:
            if not TOKEN.fullmatch(name):
                stripped = name.strip()
                expected = f"{kind.value}:{stripped}" if TOKEN.fullmatch(stripped) else f"e.g. {_NAMED[kind]}"
                raise ValueError(f"{quote(text)} does not hold a valid name; expected {expected}")


def _unknown(text: str, kind: str) -> str:
    if not text:
        return "an alternative is empty; expected one | between two of them, e.g. header:X-User-ID | client_ip"
    kinds = [source.value for source in SourceKind]
    plain = kind[:64].lower().replace("-", "_")
    close = [_OTHER_NAMES[plain]] if plain in _OTHER_NAMES else get_close_matches(plain, kinds, n=1)
    if not close and kind == text and "-" in text and TOKEN.fullmatch(text) and len(text) <= _LONGEST_SUGGESTED:
        close = [f"header:{text}"]
    hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(kinds)}"
    return f"{quote(text)} is not a source of keys; {hint}"
