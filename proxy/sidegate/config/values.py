"""Kinds of values in the configuration: how each is read, written back and described in JSON Schema.

A kind annotates the type of a setting, e.g. `Annotated[float, Duration(1_000, DAY_US)]`. Reading raises ValueError with
a sentence that holds the value and what was expected.
"""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SecretStr
from pydantic_core import CoreSchema, core_schema

from sidegate.config import addresses, units
from sidegate.config.environment import Substituted
from sidegate.config.faults import quote
from sidegate.config.scalars import FLAG_TYPES

# Processes of one sidecar; far above any machine that a sidecar shares with its application.
MAX_WORKERS = 256
DAY_US = 86_400_000_000
SHORTEST_TIMEOUT_US = 1_000

# YAML 1.1 read these as truth values; this language does not.
_MEANT_FLAGS = {**dict.fromkeys(("yes", "on", "true"), "true"), **dict.fromkeys(("no", "off", "false"), "false")}
# Words of other programs for a word of this language.
_OTHER_WORDS = {
    **dict.fromkeys(("open", "fail_open", "pass", "ignore"), "allow"),
    **dict.fromkeys(("closed", "close", "fail_closed", "block", "reject", "refuse"), "deny"),
    **dict.fromkeys(("off", "false", "no"), "none"),
    **dict.fromkeys(("on", "true", "yes"), "all"),
    "warn": "warning",
    "trace": "debug",
}
_DURATION_PATTERN = r"([0-9]{1,15}(\.[0-9]{1,9})?(us|ms|s|m|h|d))+"
_DURATION_SCHEMA = {"type": "string", "pattern": f"^{_DURATION_PATTERN}$", "examples": ["250ms", "10s", "5m", "1h30m"]}
_RATE_SCHEMA = {
    "type": "string",
    "pattern": rf"^[0-9]{{1,15}}/(sec|second|minute|hour|day|[smhd]|{_DURATION_PATTERN})$",
    "examples": ["10/minute", "100/s", "1/2.5s", "5000/day"],
}
_SIZE_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": r"^[0-9]{1,15}(\.[0-9]{1,9})?(B|kB|MB|GB|KiB|MiB|GiB)?$"},
    ],
    "examples": ["16KiB", "1MiB"],
}


class ValueKind:
    """One kind of value. Subclasses read it; `schema` describes it; `write` gives it as a document would hold it."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema

    def read(self, value: object) -> object:
        """The value of a setting. Raises ValueError with a sentence."""
        raise NotImplementedError

    def write(self, value: Any) -> object:
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        write = core_schema.plain_serializer_function_ser_schema(self.write, when_used="json")
        return core_schema.no_info_plain_validator_function(self.read, serialization=write)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)


class CheckedText(ValueKind):
    """Text that `check` turns into the value, or refuses with ValueError."""

    def __init__(self, check: Callable[[str], object], **schema: object) -> None:
        super().__init__({"type": "string", **schema})
        self._check = check

    def read(self, value: object) -> object:
        return self._check(read_text(value))

    def write(self, value: Any) -> object:
        return str(value)


class Text(CheckedText):
    """Text of one form: `what` completes the sentence "'…' is not …"."""

    def __init__(self, form: str, what: str, *, ignore_case: bool = False, **schema: object) -> None:
        super().__init__(self._matching, **schema)
        self._form = re.compile(form, re.IGNORECASE if ignore_case else 0)
        self._what = what

    def _matching(self, text: str) -> str:
        if not self._form.fullmatch(text):
            raise ValueError(f"{quote(text)} is not {self._what}")
        return text


class OptionalText(ValueKind):
    """Text; an empty one, as an unset variable gives, is None."""

    def __init__(self) -> None:
        super().__init__({"type": "string"})

    def read(self, value: object) -> str | None:
        return None if value is None or value == "" else read_text(value)


class SecretText(ValueKind):
    """Text that no message and no page shows."""

    def __init__(self) -> None:
        super().__init__({"type": "string"})

    def read(self, value: object) -> SecretStr:
        if not isinstance(value, str):
            raise ValueError("is not text; expected text, in quotes")  # noqa: TRY004  (one exception for all faults)
        return SecretStr(str(value))

    def write(self, value: SecretStr) -> str:
        return str(value)


class Boolean(ValueKind):
    """true or false."""

    def __init__(self) -> None:
        super().__init__({"type": "boolean"})

    def read(self, value: object) -> bool:
        return read_flag(value)


class WholeNumber(ValueKind):
    """A whole number within bounds, called `name` in messages."""

    def __init__(self, least: int, most: int, name: str = "") -> None:
        super().__init__({"type": "integer", "minimum": least, "maximum": most})
        self._least, self._most = least, most
        self._expected = f"{name}; expected a whole number" if name else "a whole number"

    def read(self, value: object) -> int:
        number = value
        if isinstance(value, Substituted) and value.isascii() and value.isdigit() and len(value) < 20:
            number = int(value)
        if not isinstance(number, int) or isinstance(number, FLAG_TYPES) or not self._least <= number <= self._most:
            quoted = isinstance(value, str) and value.isascii() and value.isdigit()
            hint = ", without quotes" if quoted and not isinstance(value, Substituted) else ""
            raise ValueError(f"{quote(value)} is not {self._expected} from {self._least} to {self._most}{hint}")
        return int(number)


class WorkerCount(ValueKind):
    """A number of processes, or `auto`."""

    def __init__(self) -> None:
        self._number = WholeNumber(1, MAX_WORKERS)
        super().__init__({"anyOf": [self._number.schema, {"const": "auto"}]})

    def read(self, value: object) -> int | str:
        if value == "auto":
            return "auto"
        try:
            return self._number.read(value)
        except ValueError as error:
            raise ValueError(f"{error}, or auto") from None


class Proportion(ValueKind):
    """A number from 0 to 1."""

    def __init__(self) -> None:
        super().__init__({"type": "number", "minimum": 0, "maximum": 1})

    def read(self, value: object) -> float:
        number = value
        if isinstance(value, Substituted) and re.fullmatch(r"[01](?:\.[0-9]{1,15})?", value):
            number = float(value)
        if not isinstance(number, int | float) or isinstance(number, FLAG_TYPES) or not 0 <= number <= 1:
            raise ValueError(f"{quote(value)} is not a share; expected a number from 0 to 1")
        return float(number)


class Choice(ValueKind):
    """One of some words."""

    def __init__(self, *words: str) -> None:
        super().__init__({"enum": list(words)})
        self._words = words

    def read(self, value: object) -> str:
        if isinstance(value, str) and value in self._words:
            return str(value)
        expected = " or ".join([", ".join(self._words[:-1]), self._words[-1]])
        text = value[:64].lower() if isinstance(value, str) else quote(value)
        known = _OTHER_WORDS.get(text)
        close = [known] if known in self._words else get_close_matches(text, self._words, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{quote(value)} is not known here; expected {expected}{hint}")


class Duration(ValueKind):
    """A duration within bounds, in seconds."""

    us_per_unit = 1_000_000

    def __init__(self, least_us: int, most_us: int) -> None:
        super().__init__(_DURATION_SCHEMA)
        self._least_us, self._most_us = least_us, most_us

    def read(self, value: object) -> float:
        return self._within(value) / 1_000_000

    def write(self, value: float) -> str:
        return units.duration_text(round(value * self.us_per_unit))

    def _within(self, value: object) -> int:
        us = units.duration_us(value)
        if not self._least_us <= us <= self._most_us:
            bounds = f"from {units.duration_text(self._least_us)} to {units.duration_text(self._most_us)}"
            raise ValueError(f"{quote(value)} is out of bounds; expected a duration {bounds}")
        return us


class Milliseconds(Duration):
    """A duration within bounds, in whole milliseconds, rounded up."""

    us_per_unit = 1_000

    def read(self, value: object) -> int:
        return -(-self._within(value) // 1_000)


class RateExpression(ValueKind):
    """A rate: `10/minute`, `1/2.5s`."""

    def __init__(self) -> None:
        super().__init__(_RATE_SCHEMA)

    def read(self, value: object) -> units.Quota:
        return units.quota(value)

    def write(self, value: units.Quota) -> str:
        return str(value)


class ByteSize(ValueKind):
    """A size in bytes within bounds."""

    def __init__(self, least: int, most: int) -> None:
        super().__init__(_SIZE_SCHEMA)
        self._least, self._most = least, most

    def read(self, value: object) -> int:
        size = units.size_bytes(value)
        if not self._least <= size <= self._most:
            bounds = f"from {units.size_text(self._least)} to {units.size_text(self._most)}"
            raise ValueError(f"{quote(value)} is out of bounds; expected a size {bounds}")
        return size


def read_text(value: object) -> str:
    """Text. A number or a truth value in its place needs quotes."""
    if not isinstance(value, str):
        quotes = f", in quotes: '{quote(value)}'" if isinstance(value, int | float) else ""
        raise ValueError(f"{quote(value)} is not text; expected text{quotes}")  # noqa: TRY004  (see SecretText)
    return str(value)


def read_flag(value: object) -> bool:
    """True or false."""
    if isinstance(value, Substituted) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if not isinstance(value, FLAG_TYPES):
        meant = _MEANT_FLAGS.get(value.lower()) if isinstance(value, str) else None
        hint = f"; did you mean {meant}?" if meant else ""
        raise ValueError(f"{quote(value)} is neither true nor false{hint}")  # noqa: TRY004
    return bool(value)


AnyText = Annotated[str, CheckedText(str)]
Secret = Annotated[SecretStr, SecretText()]
FileName = Annotated[str | None, OptionalText()]
Flag = Annotated[bool, Boolean()]
Port = Annotated[int, WholeNumber(0, 65535, "a port")]
Connections = Annotated[int, WholeNumber(1, 1_000_000)]
Workers = Annotated[int | Literal["auto"], WorkerCount()]
Timeout = Annotated[float, Duration(SHORTEST_TIMEOUT_US, DAY_US)]
TimeoutOrZero = Annotated[float, Duration(0, DAY_US)]
NetworkRange = Annotated[
    IPv4Network | IPv6Network, CheckedText(addresses.network, examples=["10.0.0.0/8", "2001:db8::/32"])
]
