"""Faults of a configuration: messages with file, line, column and path."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# A key or an index of each step from the top of the document.
Path = tuple[str | int, ...]

# Bounds the output and the time for a document that consists of faults.
MAX_FAULTS = 100

# Bounds how much of a value a message shows.
_LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class ConfigFault:
    """One fault, or one warning.

    `line` and `column` count from 1, and are None where the document could not be read at all. `path` is empty
    where the fault concerns the document as a whole.
    """

    file: str
    line: int | None
    column: int | None
    path: str
    message: str

    def __str__(self) -> str:
        return self.text()

    def text(self, kind: str = "") -> str:
        """Place, `kind`, path and message in one line."""
        where = self.file if self.line is None else f"{self.file}:{self.line}:{self.column}"
        what = ": ".join(part for part in (self.path, self.message) if part)
        return f"{where}: {kind}{what}"


class ConfigError(Exception):
    """The configuration cannot be used. Its text is one fault per line, in the order of the document."""

    def __init__(self, faults: Sequence[ConfigFault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)


class Wrong(ValueError):
    """Several faults found by one check: each with its path below the value that was checked."""

    def __init__(self, faults: Sequence[tuple[Path, str]]) -> None:
        super().__init__("; ".join(message for _, message in faults))
        self.faults = tuple(faults)


def in_order(faults: Iterable[ConfigFault]) -> list[ConfigFault]:
    """Faults in the order of the document."""
    return sorted(faults, key=lambda fault: (fault.line or 0, fault.column or 0))


def written(path: Path) -> str:
    """A path in the notation of messages: `policies[2].limit`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            key = step if step.isprintable() and 0 < len(step) <= _LONGEST_SHOWN else quote(step)
            text += f".{key}" if text else key
    return text


def quote(value: object) -> str:
    """A value for a message: as written, on one line, shortened where it is long."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return "a list"
        case dict():
            return "a mapping"
        case str() if len(value) > _LONGEST_SHOWN:
            return ascii_safe(repr(value[:_LONGEST_SHOWN] + "…"))
        case str():
            return ascii_safe(repr(str(value)))
        case _:
            text = getattr(value, "as_written", None) or str(value)
            return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"


def ascii_safe(text: str) -> str:
    """The text with lone surrogates escaped, so that it can be written to any UTF-8 stream."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
