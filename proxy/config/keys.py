"""How a policy's key is written: sources, alternatives joined by `|`, and lists of them for composite keys."""

import re
from difflib import get_close_matches
from itertools import pairwise

from proxy.config.faults import Wrong, shown
from proxy.decision.identity import Key, KeySource, SourceKind

# Every request reads all parts of all keys that apply to it.
MAX_PARTS = 8
MAX_ALTERNATIVES = 8

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2

_NAMED = {
    SourceKind.HEADER: "header:X-User-ID",
    SourceKind.QUERY: "query:user",
    SourceKind.COOKIE: "cookie:session",
}
_ALWAYS_PRESENT = {KeySource(SourceKind.CLIENT_IP), KeySource(SourceKind.PATH), KeySource(SourceKind.METHOD)}
_SEGMENT = re.compile(r"[1-9][0-9]{0,3}")
_QUERY_NAME = re.compile(r"[^\s|&=#]+")


def key_of(value: object) -> Key:
    """A key as it is written. Raises ValueError with a sentence, or Wrong with several."""
    parts = value if isinstance(value, list) else [value]
    if not parts:
        raise ValueError("names no source; expected e.g. header:X-User-ID | client_ip")
    if len(parts) > MAX_PARTS:
        raise ValueError(f"has {len(parts)} parts; at most {MAX_PARTS}")
    read: list[tuple[KeySource, ...]] = []
    faults: list[tuple[tuple[str | int, ...], str]] = []
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


def key_text(key: Key) -> str | list[str]:
    """A key as it would be written."""
    parts = [" | ".join(map(str, alternatives)) for alternatives in key.parts]
    return parts[0] if len(parts) == 1 else parts


def _alternatives(value: object) -> tuple[KeySource, ...]:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not a key; expected text, e.g. header:X-User-ID | client_ip")  # noqa: TRY004
    sources = tuple(_source(text.strip()) for text in value.split("|"))
    if len(sources) > MAX_ALTERNATIVES:
        raise ValueError(f"has {len(sources)} alternatives; at most {MAX_ALTERNATIVES}")
    for source, following in pairwise(sources):
        if source in _ALWAYS_PRESENT:
            raise ValueError(f"{following} is never reached: {source} is present in every request")
    if len({str(source).lower() for source in sources}) < len(sources):
        raise ValueError(f"{shown(value)} names the same source twice")
    return sources


def _source(text: str) -> KeySource:
    kind_text, colon, name = text.partition(":")
    try:
        kind = SourceKind(kind_text)
    except ValueError:
        raise ValueError(_unknown(text, kind_text)) from None
    if not colon and kind in _NAMED:
        raise ValueError(f"{shown(text)} needs a name; expected e.g. {_NAMED[kind]}")
    if colon and kind not in _NAMED and kind is not SourceKind.PATH:
        raise ValueError(f"{shown(text)} takes no name; expected {kind.value}")
    if colon:
        _check_name(text, kind, name)
    return KeySource(kind, name)


def _check_name(text: str, kind: SourceKind, name: str) -> None:
    match kind:
        case SourceKind.PATH:
            if not _SEGMENT.fullmatch(name):
                raise ValueError(f"{shown(text)} does not number a segment; the first one is path:1")
        case SourceKind.QUERY:
            if not _QUERY_NAME.fullmatch(name):
                raise ValueError(f"{shown(text)} does not name a parameter; expected e.g. {_NAMED[kind]}")
        case _:
            if not TOKEN.fullmatch(name):
                raise ValueError(f"{shown(text)} does not hold a valid name; expected e.g. {_NAMED[kind]}")


def _unknown(text: str, kind: str) -> str:
    if not text:
        return "an alternative is empty; expected e.g. header:X-User-ID | client_ip"
    kinds = [source.value for source in SourceKind]
    close = get_close_matches(kind[:64].lower().replace("-", "_"), kinds, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(kinds)}"
    return f"{shown(text)} is not a source of keys; {hint}"
