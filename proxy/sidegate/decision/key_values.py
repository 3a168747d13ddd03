"""Reads the value of a key source from a request, in one form for all spellings that applications read alike.

Servers and frameworks differ in how they read cookies, queries and credentials. A value is canonical where all of them
map their spellings to one identity; BadRequest is raised where one application would see an identity that another does
not. docs/policies.md lists the forms.
"""

import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from functools import lru_cache

from sidegate.decision.request import BadRequest, RequestFacts, authority_of, decode, paths_of, query_part

# Credentials whose scheme has no case, and whose spaces do not count (RFC 9110 §11.4).
CREDENTIAL_FIELDS = frozenset({"authorization", "proxy-authorization"})

_CREDENTIALS = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]+(.*))?", re.DOTALL)
# Character classes of what some servers strip around the name of a parameter or cookie.
_BLANKS = r"[\s+]"
_STRIPPED_FROM_COOKIE_NAMES = r'[\x00-\x20"\x7f-\U0010ffff]'
_PHP_CUT = re.compile(r"[\[\x00].*", re.DOTALL)
# Bounds the work for one key: parameters of a query, or cookies. Django, PHP and Express stop at 1,000 too.
MOST_PIECES = 1000

ValueReader = Callable[[RequestFacts], str | None]


def header_reader(name: str) -> ValueReader:
    """Reads a field that occurs once. Raises BadRequest where it occurs more often."""
    if name.lower() in CREDENTIAL_FIELDS:
        return lambda facts: _credentials(single_field(facts, name))
    return lambda facts: single_field(facts, name)


def single_field(facts: RequestFacts, name: str) -> str | None:
    """The value of a field without surrounding white space; None where it is absent or empty."""
    values = facts.fields.getall(name, ())
    if not values:
        return None
    if len(values) != 1:
        raise BadRequest(f"the field {name} occurs {len(values)} times, but decides a limit")
    return values[0].strip(" \t") or None


def host_of(facts: RequestFacts) -> str | None:
    """The request's host in lower case, without port and the dot of a full name; None where it has none.

    The authority of an absolute-form target replaces the Host field (RFC 9112 §3.2.2).
    """
    value = authority_of(facts.target) or single_field(facts, "Host")
    if value is None:
        return None
    host = value.rpartition("@")[2].lower()
    return host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0].removesuffix(".")


def client_cert_of(facts: RequestFacts) -> str | None:
    """The name in the client's certificate; None where it has none."""
    return facts.client_cert or None


def method_of(facts: RequestFacts) -> str:
    """The method. HEAD is GET: applications run the same handler (RFC 9110 §9.3.2)."""
    return "GET" if facts.method == "HEAD" else facts.method


def path_reader(segment: str, *, ignore_case: bool) -> ValueReader:
    """Reads the canonical path, or its 1-based segment; in lower case where the match ignores case."""

    def read(facts: RequestFacts) -> str | None:
        path = paths_of(facts.target)[0]
        if ignore_case:
            path = path.lower()
        if not segment:
            return path
        segments = path.split("/")
        return segments[int(segment)] if int(segment) < len(segments) else None

    return read


def query_reader(name: str) -> ValueReader:
    """Reads a query parameter that occurs once under its own name.

    Raises BadRequest where it occurs more often, or in a form that only some applications read as this name: behind
    spaces or a semicolon, with brackets, or with characters that PHP maps to `_`; and for more than MOST_PIECES
    parameters.
    """
    pieces = _pieces_named(name, separators="&;", before=_BLANKS)

    def read(facts: RequestFacts) -> str | None:
        query = query_part(facts.target)
        if not query:
            return None
        if query.count("&") + query.count(";") >= MOST_PIECES:
            raise BadRequest(f"the query has more than {MOST_PIECES} parameters, and one of them decides a limit")
        value = None
        for piece in pieces.finditer("&" + query):
            separator, text, found = piece.groups("")
            # Only some applications begin a parameter at a semicolon.
            if separator == ";" or (text != name and decode(text.replace("+", " ")) != name):
                raise BadRequest(f"the query parameter {name} is written in a form that not all applications read")
            if value is not None:
                raise BadRequest(f"the query parameter {name} occurs more than once, but decides a limit")
            value = found
        return decode(value.replace("+", " ")) or None if value else None

    return read


def cookie_reader(name: str) -> ValueReader:
    """Reads a cookie that occurs once under its own name, unquoted and percent-decoded.

    `+` and a space are one character, since PHP reads them alike. Raises BadRequest where the cookie occurs more often,
    or behind a comma, or holds a backslash, an inner quote, or a character outside printable ASCII: frameworks read
    those in several ways; and for more than MOST_PIECES cookies.
    """
    pieces = _pieces_named(
        name, separators=";,", before=_STRIPPED_FROM_COOKIE_NAMES, behind=_STRIPPED_FROM_COOKIE_NAMES
    )

    def read(facts: RequestFacts) -> str | None:
        lines = facts.fields.getall("Cookie", ())
        if sum(line.count(";") for line in lines) >= MOST_PIECES:
            raise BadRequest(f"the request has more than {MOST_PIECES} cookies, and one of them decides a limit")
        value = None
        for piece in pieces.finditer(";" + ";".join(lines)):
            separator, text, found = piece.groups("")
            # Servers that follow RFC 2109 end a cookie at a comma too.
            if separator == "," or text.strip(" \t") != name:
                raise BadRequest(f"the cookie {name} is written in a form that not all applications read alike")
            if value is not None:
                raise BadRequest(f"the cookie {name} occurs more than once, but decides a limit")
            value = found
        return _cookie_value(name, value.strip(" \t")) if value is not None else None

    return read


def _pieces_named(name: str, *, separators: str, before: str, behind: str = "") -> re.Pattern[str]:
    """A pattern that finds the pieces whose name some application reads as `name`, whatever else the text holds.

    Its groups are the separator before the piece, the piece's name as written, and its value. One pass over the text
    finds all of them, so that the work does not depend on the number of other pieces. `before` and `behind` are
    character classes of what some applications strip around a name.
    """
    start = f"(?:{before}++|%20|%0[9A-Da-d])*+"
    spelled = "".join(map(_spellings, _as_php(name) or name))
    end = (f"{behind}*+" if behind else "") + rf"(?=[={separators}\[\x00]|%5[Bb]|%00|\Z)"
    ends_value = separators.replace(",", "")
    return re.compile(rf"([{separators}])(?={start}{spelled}{end})(?=([^={ends_value}]*)(?:=([^{ends_value}]*))?)")


def _spellings(char: str) -> str:
    """A pattern of what applications read as this character of a name: itself, its escapes, for `_` what PHP maps."""
    if char == "_":
        return "(?:[_. +]|%5[Ff]|%2[Ee]|%20)"
    raw = char.encode("utf-8", "surrogateescape")
    escapes = "".join(_either_case(f"%{byte:02X}") if byte < 0x80 else _byte(byte) for byte in raw)
    return f"(?:{re.escape(char)}|{escapes})"


def _byte(byte: int) -> str:
    """A byte of a character outside ASCII, escaped or not: the halves of a character may be written either way."""
    return f"(?:{_either_case(f'%{byte:02X}')}|{chr(0xDC00 + byte)})"


def _either_case(escape: str) -> str:
    return "".join(f"[{sign}{sign.lower()}]" if sign.isalpha() else sign for sign in escape)


def _cookie_value(name: str, value: str) -> str | None:
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    # What some frameworks decode, cut off or strip, and others do not.
    if not (value.isascii() and value.isprintable()) or '"' in value or "\\" in value:
        raise BadRequest(f"the cookie {name} is written in a form that not all applications read alike")
    return decode(value).replace("+", " ") or None


@lru_cache(1024)
def _credentials(value: str | None) -> str | None:
    """Credentials with their scheme in lower case and one space behind it; Basic ones must be canonical base64."""
    match = value and _CREDENTIALS.fullmatch(value)
    if not match:
        return value
    scheme, rest = match[1].lower(), match[2] or ""
    if scheme == "basic" and not _is_canonical_base64(rest):
        raise BadRequest("the Basic credentials are not canonical base64, but decide a limit")
    return f"{scheme} {rest}" if rest else scheme


def _is_canonical_base64(text: str) -> bool:
    """Whether base64 text is the only spelling of its bytes (RFC 4648 §3.5); lenient decoders skip other characters."""
    try:
        raw = a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError:  # also UnicodeEncodeError and binascii.Error
        return False
    return b2a_base64(raw, newline=False).decode("ascii") == text


def _as_php(name: str) -> str:
    """A decoded name as PHP stores it: without leading blanks, cut at `[` or NUL, with `_` for a dot or a space."""
    return _PHP_CUT.sub("", name.lstrip()).replace(".", "_").replace(" ", "_")
