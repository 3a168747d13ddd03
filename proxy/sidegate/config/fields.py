"""The kinds of values that settings have: each reads what is written and says in a sentence what was expected."""

import re
from collections.abc import Callable
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, SecretStr, WithJsonSchema

from sidegate.config import addresses, units
from sidegate.config.environment import Substituted
from sidegate.config.faults import shown

Item = TypeVar("Item")
Read = TypeVar("Read", bound=Callable[[object], object])

# Lists that a request is held against one entry after the other, and that are checked entry by entry.
MAX_ENTRIES = 1000
# Processes of one sidecar; far above any machine that a sidecar shares with its application.
MAX_WORKERS = 256

# YAML 1.1 took them for truth values; this language does not.
_MEANT_FLAGS = {**dict.fromkeys(("yes", "on", "true"), "true"), **dict.fromkeys(("no", "off", "false"), "false")}
# What others call a word of the language.
_OTHER_WORDS = {
    **dict.fromkeys(("open", "fail_open", "pass", "ignore"), "allow"),
    **dict.fromkeys(("closed", "close", "fail_closed", "block", "reject", "refuse"), "deny"),
    **dict.fromkeys(("off", "false", "no"), "none"),
    **dict.fromkeys(("on", "true", "yes"), "all"),
    "warn": "warning",
    "trace": "debug",
}
_SHORTEST_US = 1_000
_DAY_US = 86_400_000_000


# What JSON Schema can say of a value, for editors (see schema.py).
_DURATION_PATTERN = r"([0-9]{1,15}(\.[0-9]{1,9})?(us|ms|s|m|h|d))+"
A_DURATION: dict[str, Any] = {
    "type": "string",
    "pattern": f"^{_DURATION_PATTERN}$",
    "examples": ["250ms", "10s", "5m", "1h30m"],
}
A_RATE: dict[str, Any] = {
    "type": "string",
    "pattern": rf"^[0-9]{{1,15}}/(sec|second|minute|hour|day|[smhd]|{_DURATION_PATTERN})$",
    "examples": ["10/minute", "100/s", "1/2.5s", "5000/day"],
}
_A_SIZE: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": r"^[0-9]{1,15}(\.[0-9]{1,9})?(B|kB|MB|GB|KiB|MiB|GiB)?$"},
    ],
    "examples": ["16KiB", "1MiB"],
}


def told_as(read: Read, schema: dict[str, Any]) -> Read:
    """The reader, which knows what JSON Schema can say of the values it takes."""
    read.json_schema = schema  # type: ignore[attr-defined]  # a function takes attributes
    return read


class Section(BaseModel):
    """A mapping of the configuration: no key but the known ones, no value of another type, never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def text_of(value: object) -> str:
    """Text; a number or a truth value in its place needs quotes."""
    if not isinstance(value, str):
        quotes = f", in quotes: '{shown(value)}'" if isinstance(value, bool | int | float) else ""
        raise ValueError(f"{shown(value)} is not text; expected text{quotes}")  # noqa: TRY004  (see units)
    return str(value)


def secret_text(value: object) -> object:
    """Text that no message may show."""
    if not isinstance(value, str | SecretStr):
        raise ValueError("is not text; expected text, in quotes")  # noqa: TRY004
    return str(value) if isinstance(value, str) else value


def no_empty_text(value: object) -> object:
    """An empty text, as an unset variable gives, is no value."""
    return None if value is None or value == "" else text_of(value)


def flag_of(value: object) -> bool:
    """True or false."""
    if isinstance(value, Substituted) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if not isinstance(value, bool):
        meant = _MEANT_FLAGS.get(value.lower()) if isinstance(value, str) else None
        hint = f"; did you mean {meant}?" if meant else ""
        raise ValueError(f"{shown(value)} is neither true nor false{hint}")  # noqa: TRY004
    return value


def whole(least: int, most: int, name: str = "") -> Callable[[object], int]:
    """Reads a whole number within bounds, called `name` in messages."""

    def read(value: object) -> int:
        number = value
        if isinstance(value, Substituted) and value.isascii() and value.isdigit() and len(value) < 20:
            number = int(value)
        if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
            kind = f"{name}; expected a whole number" if name else "a whole number"
            quoted = isinstance(value, str) and value.isascii() and value.isdigit()
            hint = ", without quotes" if quoted and not isinstance(value, Substituted) else ""
            raise ValueError(f"{shown(value)} is not {kind} from {least} to {most}{hint}")
        return number

    return told_as(read, {"type": "integer", "minimum": least, "maximum": most})


def share_of(value: object) -> float:
    """A number from 0 to 1."""
    number = value
    if isinstance(value, Substituted) and re.fullmatch(r"[01](?:\.[0-9]{1,15})?", value):
        number = float(value)
    if not isinstance(number, int | float) or isinstance(number, bool) or not 0 <= number <= 1:
        raise ValueError(f"{shown(value)} is not a share; expected a number from 0 to 1")
    return float(number)


def workers_of(value: object) -> int | str:
    """A number of processes, or `auto`."""
    if value == "auto":
        return "auto"
    try:
        return whole(1, MAX_WORKERS)(value)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


told_as(workers_of, {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_WORKERS}, {"const": "auto"}]})


def one_of(*names: str) -> Callable[[object], str]:
    """Reads one of some words."""

    def read(value: object) -> str:
        if isinstance(value, str) and value in names:
            return str(value)
        expected = " or ".join([", ".join(names[:-1]), names[-1]])
        text = value[:64].lower() if isinstance(value, str) else shown(value)
        close = [word] if (word := _OTHER_WORDS.get(text)) in names else get_close_matches(text, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{shown(value)} is not known here; expected {expected}{hint}")

    return told_as(read, {"enum": list(names)})


def listed(value: object) -> object:
    """A single value as the list of it; lists as they are. Empty lists are refused: they would match nothing."""
    if value == []:
        raise ValueError("the list is empty; leave the key out to match all")
    return plain_list(value) if isinstance(value, list | tuple) else (value,)


def plain_list(value: object) -> object:
    """A list of bounded length; it may be empty."""
    entries = every_one(value)
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"the list has {len(entries)} entries; expected {MAX_ENTRIES} at most")
    return entries


def every_one(value: object) -> tuple[object, ...]:
    """A list of any length."""
    if not isinstance(value, list | tuple):
        single = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9./-]{1,40}", value)
        expected = f"[{value}]" if single else "e.g. [...]"
        raise ValueError(f"{shown(value)} is not a list; expected {expected} or lines that begin with a dash")  # noqa: TRY004
    return tuple(value)


def seconds(least_us: int, most_us: int) -> Callable[[object], float]:
    """Reads a duration within bounds, as seconds."""

    def read(value: object) -> float:
        return _within(value, least_us, most_us) / 1_000_000

    return told_as(read, A_DURATION)


def milliseconds(least_us: int, most_us: int) -> Callable[[object], int]:
    """Reads a duration within bounds, as whole milliseconds, rounded up."""

    def read(value: object) -> int:
        return -(-_within(value, least_us, most_us) // 1_000)

    return told_as(read, A_DURATION)


def size(least: int, most: int) -> Callable[[object], int]:
    """Reads a size in bytes within bounds."""

    def read(value: object) -> int:
        number = units.size_bytes(value)
        if not least <= number <= most:
            bounds = f"from {units.size_text(least)} to {units.size_text(most)}"
            raise ValueError(f"{shown(value)} is out of bounds; expected a size {bounds}")
        return number

    return told_as(read, _A_SIZE)


def optional(read: Callable[[object], object]) -> Callable[[object], object]:
    """Reads nothing, or what `read` reads."""
    schema: dict[str, Any] = read.json_schema  # type: ignore[attr-defined]  # see told_as
    return told_as(lambda value: None if value is None else read(value), schema)


def _within(value: object, least_us: int, most_us: int) -> int:
    us = units.duration_us(value)
    if not least_us <= us <= most_us:
        bounds = f"from {units.duration_text(least_us)} to {units.duration_text(most_us)}"
        raise ValueError(f"{shown(value)} is out of bounds; expected a duration {bounds}")
    return us


def _schema(kind: str | list[str], *examples: object) -> WithJsonSchema:
    schema: dict[str, Any] = {"type": kind}
    if examples:
        schema["examples"] = list(examples)
    return WithJsonSchema(schema, mode="validation")


def _seconds_text(value: float) -> str:
    return units.duration_text(round(value * 1_000_000))


_AS_SECONDS = PlainSerializer(_seconds_text, return_type=str, when_used="json")
_AS_OPTIONAL_SECONDS = PlainSerializer(
    lambda value: None if value is None else _seconds_text(value), return_type=str | None, when_used="json"
)

Text = Annotated[str, BeforeValidator(text_of)]
Secret = Annotated[SecretStr, BeforeValidator(secret_text), _schema("string")]
FileName = Annotated[str | None, BeforeValidator(no_empty_text), _schema("string")]
Flag = Annotated[bool, BeforeValidator(flag_of)]
Port = Annotated[int, BeforeValidator(whole(0, 65535, "a port"))]
Connections = Annotated[int, BeforeValidator(whole(1, 1_000_000))]
Share = Annotated[float, BeforeValidator(told_as(share_of, {"type": "number", "minimum": 0, "maximum": 1}))]
Workers = Annotated[int | Literal["auto"], BeforeValidator(workers_of)]
Timeout = Annotated[float, BeforeValidator(seconds(_SHORTEST_US, _DAY_US)), _AS_SECONDS]
Patience = Annotated[float, BeforeValidator(seconds(0, _DAY_US)), _AS_SECONDS]
OptionalTimeout = Annotated[
    float | None, BeforeValidator(optional(seconds(_SHORTEST_US, _DAY_US))), _AS_OPTIONAL_SECONDS
]
Network = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(lambda value: addresses.network(text_of(value))),
    _schema("string", "10.0.0.0/8", "2001:db8::/32"),
]
OneOrMore = Annotated[tuple[Item, ...], BeforeValidator(listed)]
Many = Annotated[tuple[Item, ...], BeforeValidator(plain_list)]
