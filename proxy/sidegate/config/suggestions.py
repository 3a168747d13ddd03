"""Suggestions for unknown keys: misspelt ones, keys of other limiters, keys that belong elsewhere."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

from sidegate.config.faults import Path, quote
from sidegate.config.model import Settings

_SENTENCES = {
    "missing": "is missing",
    "string_unicode": "holds half a character (a lone surrogate); expected text",
}

# Examples of sections, shown where the document has a single value instead.
_EXAMPLES = {
    "match": "{path: /api/**}",
    "upstream": "{url: http://127.0.0.1:9000}",
    "store": "{url: redis://localhost:6379}",
    "client_ip": "{trusted_proxies: [10.0.0.0/8]}",
    "responses": "{headers: [ratelimit]}",
    "log": "{level: info}",
    "policies": "{name: api, key: client_ip, limit: 10/minute}",
    "overrides": "{key: alice, limit: 100/minute}",
}
# The names of a key in other limiters.
_OTHER_KEYS = {
    **dict.fromkeys(("rate", "rates", "quota", "requests", "rps", "rate_limit", "ratelimit"), "limit"),
    **dict.fromkeys(("capacity", "bucket", "max", "size"), "burst"),
    **dict.fromkeys(("dry_run", "trial", "report_only"), "shadow"),
    **dict.fromkeys(("ttl", "expire", "expiry"), "idle_ttl"),
    **dict.fromkeys(("weight", "hits", "tokens"), "cost"),
    **dict.fromkeys(("ip", "ips", "source_ip", "cidr"), "client_ip"),
    **dict.fromkeys(("allow", "allowlist", "whitelist", "skip"), "exempt"),
    **dict.fromkeys(("deny", "ban", "blocklist", "blacklist"), "blocked"),
    **dict.fromkeys(("redis", "valkey", "database"), "store"),
    **dict.fromkeys(("server", "proxy"), "listen"),
    **dict.fromkeys(("backend", "app", "target"), "upstream"),
    **dict.fromkeys(("rules", "limits"), "policies"),
    **dict.fromkeys(("logging", "logs"), "log"),
    **dict.fromkeys(("on_store_failure", "failure_mode", "fail_mode"), "on_failure"),
    **dict.fromkeys(("on_failure",), "on_store_failure"),
    "address": "url",
    "prefix": "key_prefix",
    "users": "key",
    "id": "name",
}


def sentence(path: Path, kind: str) -> str:
    """The message for a value at `path`, by the error type of pydantic."""
    if kind == "model_type":
        step = next((step for step in reversed(path) if isinstance(step, str)), "")
        return f"is not a mapping; expected keys and values, e.g. {_EXAMPLES.get(step, '{port: 8080}')}"
    return _SENTENCES.get(kind, "is not valid here")


def unknown_key(path: Path, *, anchored: bool = False) -> str:
    """The message for an unknown key: the key that was probably meant, or the keys that exist.

    `anchored`: its value has an anchor, as templates for aliases have in other languages.
    """
    key, known = str(path[-1]), sorted(_known_keys(path[:-1]))
    plain = key[:64].lower().replace("-", "_")
    if below := [name for name in known if plain in _known_keys((*path[:-1], name))]:
        hint = f"which belongs in {' or '.join(below)}, e.g. {below[0]}: {{{plain}: ...}}"
    elif _OTHER_KEYS.get(plain) in known:
        hint = f"did you mean {_OTHER_KEYS[plain]!r}?"
    elif close := get_close_matches(plain, known, n=1):
        hint = f"did you mean {close[0]!r}?"
    else:
        hint = f"expected one of {', '.join(known)}"
    template = "; put the anchor (&) at the first setting that has this value" if anchored else ""
    return f"unknown key {quote(key)}, {hint}{template}"


def _known_keys(path: Path) -> Iterator[str]:
    model: Any = Settings
    for step in path:
        if isinstance(step, str):
            fields = {field.alias or name: field for name, field in model.model_fields.items()}
            model = _model_in(fields[step].annotation) if step in fields else None
        if model is None:
            return
    for name, field in model.model_fields.items():
        yield field.alias or name


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
