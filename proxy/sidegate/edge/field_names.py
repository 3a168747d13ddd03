"""Classifies and caches names of header fields: the meaning of a field, and whether it is forwarded.

Sources: RFC 9110 §7.6.1 (hop-by-hop fields), §5.1 (names); applications behind WSGI and CGI cannot distinguish
`X_User_ID` from `X-User-ID`, so that a name with other characters than letters, digits and hyphens
is not sent on by default.
"""

import re
from collections.abc import Collection
from typing import NamedTuple

# The bound of a table of names: this many entries of at most this many bytes. A flood of names empties the table.
MOST_NAMES = 2048
LONGEST_NAME_BYTES = 64

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SAFE = re.compile(r"[0-9a-z-]+")

_HOP_BY_HOP = ("keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer")
_FRAMING = ("content-length", "transfer-encoding")
FORWARDED = ("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded")
# By these an application learns its client's address, its own URL or a TLS connection in front of it, as far as it
# believes them: they pass from trusted proxies only. So does every other name that begins with `x-forwarded-`.
CLAIMS = frozenset(
    {
        *("x-real-ip", "x-client-ip", "client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip"),
        *("x-original-url", "x-rewrite-url", "x-original-for", "x-original-host", "x-original-proto"),
        *("x-scheme", "x-url-scheme", "front-end-https"),
    }
)
# Naming these in Connection does not remove them.
_NEVER_REMOVED = frozenset({"cache-control", "via", "date"})


class FieldRole(NamedTuple):
    """What a field means. `sent_on`: its line is part of what is sent on. `plain`: the plain lane may read it."""

    name: str
    sent_on: bool = False
    plain: bool = False


# A name that is no token (RFC 9110 §5.1), and one that is not sent on since applications may read it as another.
NOT_A_NAME = FieldRole("")
UNSAFE_NAME = FieldRole("", plain=True)
# One of CLAIMS. Its name is no token, so that no field can have it.
CLAIM = FieldRole("(claim)", plain=True)


class FieldNames(dict[bytes, "FieldRole | None"]):
    """Maps a name as sent to its role; None for a field that is forwarded without a meaning here. Look up with `[]`.

    `recorded` holds the names (lower case) whose values a head keeps in `special`.
    """

    def __init__(
        self, roles: Collection[FieldRole], *, claims: Collection[str] = (), pass_underscores: bool = True
    ) -> None:
        super().__init__()
        self._roles = {role.name: role for role in roles}
        self.recorded = frozenset(self._roles)
        self._claims = frozenset(claims)
        self._folded = frozenset(name for name in self._roles if name not in _NEVER_REMOVED) | self._claims
        self._pass_underscores = pass_underscores

    def __missing__(self, name: bytes) -> "FieldRole | None":
        role = self._role_of(name)
        if len(name) <= LONGEST_NAME_BYTES:
            if len(self) >= MOST_NAMES:
                self.clear()
            self[name] = role
        return role

    def _role_of(self, name: bytes) -> "FieldRole | None":
        if not _TOKEN.fullmatch(name):
            return NOT_A_NAME
        lowered = name.decode().lower()
        role = self._roles.get(lowered)
        if role is None and self._claims and is_claim(lowered):
            return CLAIM
        if role is None and not _SAFE.fullmatch(lowered):
            folded = re.sub("[^0-9a-z-]", "-", lowered)
            if not self._pass_underscores or folded in self._folded or folded.startswith("x-forwarded-"):
                return UNSAFE_NAME
        return role


def request_names(deciding: Collection[str], id_field: str = "", *, pass_underscores: bool = False) -> FieldNames:
    """The names of requests. `deciding`: fields (lower case) that decide a limit, which nothing may remove."""
    roles = {name: FieldRole(name) for name in (*_HOP_BY_HOP, *_FRAMING, "upgrade", "expect")}
    roles |= {name: FieldRole(name, plain=True) for name in ("host", "keep-alive", *FORWARDED)}
    roles |= {"connection": FieldRole("connection"), "max-forwards": FieldRole("max-forwards", sent_on=True)}
    for name in deciding:
        if name not in roles and not is_claim(name):
            roles[name] = FieldRole(name, sent_on=True, plain=True)
    if id_field:
        roles[id_field.lower()] = FieldRole(id_field.lower(), plain=True)
    return FieldNames(roles.values(), claims=CLAIMS, pass_underscores=pass_underscores)


def response_names(id_field: str = "") -> FieldNames:
    """The names of answers."""
    roles = {name: FieldRole(name) for name in (*_HOP_BY_HOP, *_FRAMING, "upgrade", "connection")}
    roles["date"] = FieldRole("date", sent_on=True, plain=True)
    roles |= {name: FieldRole(name, plain=True) for name in ("content-length", "keep-alive")}
    if id_field:
        roles[id_field.lower()] = FieldRole(id_field.lower(), plain=True)
    return FieldNames(roles.values())


def is_claim(name: str) -> bool:
    """Whether a field (lower case) passes from trusted proxies only, apart from FORWARDED."""
    return name in CLAIMS or name.startswith("x-forwarded-")


def removable(names: FieldNames, options: bytes) -> frozenset[bytes]:
    """The names (lower case) that the values of Connection fields remove, without those that have a meaning here."""
    listed = (option.strip(b" \t") for option in options.lower().split(b","))
    return frozenset(name for name in listed if names[name] is None and name.decode() not in _NEVER_REMOVED)
