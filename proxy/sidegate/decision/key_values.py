"""Reads the value of a key source from a request, in one form for all spellings that applications read alike.

Servers and frameworks differ in how they read cookies, queries and credentials. A value is canonical where all of them
map their spellings to one identity; BadRequest is raised where one application would see an identity that another does
not. docs/policies.md lists the forms.
"""

import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from functools import lru_cache

from sidegate.decision.bad_request import BadRequest
from sidegate.decision.request import RequestFacts, authority_of, decode, paths_of, query_part

# Fields of credentials (RFC 9110 §11.4).
CREDENTIAL_FIELDS = frozenset({"authorization", "proxy-authorization"})

# Parameters as Digest, OAuth 1.0, SCRAM and AWS have them. No comma stands behind a space: some applications end the
# token there.
_PARAMETER = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+=(?:\"[^\"]*\"|[^\s\",=]+=*)"
_PARAMETERS = re.compile(rf"{_PARAMETER}(?:,[ \t]*{_PARAMETER})+")
# Rails takes the first parameter of these schemes as the token.
_TOKEN_SCHEMES = frozenset({"bearer", "token"})
_NEXT_PARAMETER = re.compile(r"[,;\t]")
# Sanic takes what follows the first of these words, anywhere in the value.
_BEGIN_TOKENS = ("Bearer", "Token")
# Patterns of what some applications strip around the name of a parameter or cookie: Rack brackets, Koa a second
# question mark, Sanic prefixes.
_BEFORE_PARAMETER = r"(?:[\s+\[\]?]++|%20|%0[9A-Da-d]|%5[BbDd])"
_BEHIND_PARAMETER = r"(?:\]|%5[Dd])"
_STRIPPED_FROM_COOKIE_NAMES = r'[\x00-\x20"\x7f-\U0010ffff]'
_COOKIE_PREFIX = re.compile(r"(?i:__(?:Host|Secure)-)")
# Tornado strips a parameter's value, and reads these characters as spaces.
_READ_AS_SPACE = re.compile(r"[\x00-\x08\x0e-\x1f]")
_PHP_CUT = re.compile(r"[\[\x00].*", re.DOTALL)
# Bounds the work for one key: parameters of a query, or cookies. Django, PHP and Express stop at 1,000 too.
MOST_PIECES = 1000
# Bounds the cache of credentials: entries, and characters of each; longer ones are read anew each time.
CACHED_CREDENTIALS = 1024
CACHED_CREDENTIALS_CHARS = 2048

ValueReader = Callable[[RequestFacts], str | None]


def header_reader(name: str) -> ValueReader:
    """Reads a field that occurs once. Raises BadRequest where it occurs more often."""
    if name.lower() in CREDENTIAL_FIELDS:
        return _credentials_reader(name)
    return lambda facts: single_field(facts, name)


def _credentials_reader(name: str) -> ValueReader:
    def read(facts: RequestFacts) -> str | None:
        value = single_field(facts, name)
        return credentials(value) if value else None

    return read


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
    spaces or a semicolon, with brackets (`user[]`, `[user`, `user]`), or with characters that PHP maps to `_`; and for
    more than MOST_PIECES parameters.
    """
    pieces = _pieces_named(name, separator="[&;]", ends="&;", before=_BEFORE_PARAMETER, behind=_BEHIND_PARAMETER)

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
        return query_value(value) if value else None

    return read


def query_value(written: str) -> str | None:
    """The value of a parameter, decoded, in the form that all its spellings share; None where nothing is left.

    White space at its ends does not count, and a control character is a space, as in Tornado.
    """
    return _READ_AS_SPACE.sub(" ", decode(written.replace("+", " "))).strip() or None


def cookie_reader(name: str) -> ValueReader:
    """Reads a cookie that occurs once under its own name, unquoted and percent-decoded.

    `+` and a space are one character, since PHP reads them alike. Raises BadRequest where the cookie occurs more often,
    or behind a comma or another cookie's value and a space, or with the prefix `__Host-` or `__Secure-`, or holds a
    backslash, an inner quote, or a character outside printable ASCII: frameworks read those in several ways; and for
    more than MOST_PIECES cookies.
    """
    prefix = "" if _COOKIE_PREFIX.match(name) else f"{_COOKIE_PREFIX.pattern}?"
    pieces = _pieces_named(
        name,
        separator=r"[;, \t](?<![;, \t].)[;, \t]*+",  # http.cookies and aiohttp end a cookie at a space too
        ends=";",
        before=f"(?:{_STRIPPED_FROM_COOKIE_NAMES}++|%20|%0[9A-Da-d])",
        prefix=prefix,
        behind=_STRIPPED_FROM_COOKIE_NAMES,
    )

    def read(facts: RequestFacts) -> str | None:
        lines = facts.fields.getall("Cookie", ())
        if any(sum(line.count(each) for line in lines) >= MOST_PIECES for each in ";, \t"):
            raise BadRequest(f"the request has more than {MOST_PIECES} cookies, and one of them decides a limit")
        value = None
        for piece in pieces.finditer(";" + ";".join(lines)):
            separator, text, found = piece.groups("")
            if piece[3] is None and ";" not in separator and "," not in separator:
                continue
            # Servers that follow RFC 2109 end a cookie at a comma too.
            if ";" not in separator or "," in separator or text.strip(" \t") != name:
                raise BadRequest(f"the cookie {name} is written in a form that not all applications read alike")
            if value is not None:
                raise BadRequest(f"the cookie {name} occurs more than once, but decides a limit")
            value = found
        return cookie_value(name, value.strip(" \t")) if value is not None else None

    return read


def _pieces_named(
    name: str, *, separator: str, ends: str, before: str, behind: str, prefix: str = ""
) -> re.Pattern[str]:
    """A pattern that finds the pieces whose name some application reads as `name`, whatever else the text holds.

    Its groups are the separator before the piece, the piece's name as written, and its value. One pass over the text
    finds all of them, so that the work does not depend on the number of other pieces. `separator` is a pattern, and
    `ends` the characters that end a value for every application; `before`, `prefix` and `behind` are patterns of what
    some applications strip around a name.
    """
    spelled = "".join(map(_spellings, _as_php(name) or name))
    end = rf"{behind}*+(?=[={ends},\[\x00]|%5[Bb]|%00|\Z)"
    named = rf"(?={before}*+{prefix}{spelled}{end})"
    return re.compile(rf"({separator}){named}(?=([^={ends}]*)(?:=([^{ends}]*))?)", re.DOTALL)


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


def cookie_value(name: str, value: str) -> str | None:
    """The value of a cookie in the form that all its spellings share; None where it is empty. Raises BadRequest."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    # What some frameworks decode, cut off or strip, and others do not.
    if not (value.isascii() and value.isprintable()) or '"' in value or "\\" in value:
        raise BadRequest(f"the cookie {name} is written in a form that not all applications read alike")
    return decode(value).replace("+", " ") or None


def credentials(value: str) -> str:
    """Credentials in the form that all their spellings share: a token without its scheme, which many applications do
    not look at; Basic credentials and lists of parameters with their scheme in lower case.

    Raises BadRequest where applications read several tokens in them, for Basic ones that are not canonical base64, and
    for characters outside ASCII, of which some applications strip the spaces.
    """
    return _cached_credentials(value) if len(value) <= CACHED_CREDENTIALS_CHARS else _credentials(value)


def _credentials(value: str) -> str:
    if not value.isascii():
        raise BadRequest("the credentials hold a character outside ASCII, but decide a limit")
    first, *others = value.split(None, 1)
    scheme, rest = (first, others[0]) if others else ("", first)
    lowered = scheme.lower()
    if lowered == "basic":
        if not _is_canonical_base64(rest):
            raise BadRequest("the Basic credentials are not canonical base64, but decide a limit")
        return f"basic {rest}"
    if lowered not in _TOKEN_SCHEMES and _PARAMETERS.fullmatch(rest):
        token = f"{lowered} {rest}"
    else:
        token = _token_of(rest) if lowered in _TOKEN_SCHEMES else rest
        if not token or len(token.split(None, 1)) > 1:
            raise BadRequest("the credentials are not one token behind their scheme, but decide a limit")
    begin = next((word for word in _BEGIN_TOKENS if word in value), scheme)
    if begin != scheme and _token_of(value.partition(begin)[2]) != token:
        raise BadRequest(f"the credentials hold the word {begin}, where some applications begin to read the token")
    return token


_cached_credentials = lru_cache(CACHED_CREDENTIALS)(_credentials)


def _token_of(rest: str) -> str:
    """The token in what follows the scheme: `abc`, `token="abc"`, `token=abc, other=1`."""
    return _NEXT_PARAMETER.split(rest.lstrip(", ;\t"), 1)[0].removeprefix("token=").strip('"')


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
