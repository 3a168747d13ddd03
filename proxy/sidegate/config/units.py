"""Parses durations, rates and sizes.

Durations: a number and `us ms s m h d`, decimals allowed, larger units first where several are joined (`1h30m`). Rates:
a whole count, a slash, and either a unit (`s sec second`, `m minute`, `h hour`, `d day`) or a duration (`1/2.5s`).
`min` and plurals are refused: each unit has one spelling. Sizes: a whole number of bytes, or a number with `B kB KiB
MB MiB GB GiB`.

Every function raises ValueError with a sentence that shows the value and what was expected.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from sidegate.config.faults import quote
from sidegate.config.scalars import FLAG_TYPES
from sidegate.decision.bucket import MAX_BURST, MAX_PERIOD_US

_UNITS_US = {"d": 86_400_000_000, "h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1_000, "us": 1}
_PERIODS_US = {
    **dict.fromkeys(("s", "sec", "second"), _UNITS_US["s"]),
    **dict.fromkeys(("m", "minute"), _UNITS_US["m"]),
    **dict.fromkeys(("h", "hour"), _UNITS_US["h"]),
    **dict.fromkeys(("d", "day"), _UNITS_US["d"]),
}
_SIZES = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

_STEP = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(us|ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_STEP.pattern}){{1,6}}")
_COUNT = re.compile(r"[0-9]{1,15}")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(B|kB|MB|GB|KiB|MiB|GiB)?")
_NEARLY_A_RATE = re.compile(
    r"(?P<count>[0-9]{1,9})\s*(?:r|req|requests)?\s*(?:/|per)\s*(?P<unit>s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)",
    re.IGNORECASE,
)

_A_DURATION = "expected e.g. 250ms, 1s, 5m, 1h, 1d"
_A_RATE = "expected e.g. 10/minute, 100/s, 1/2.5s"
_A_SIZE = "expected e.g. 16KiB, 1MiB, 32768"


class Quota(NamedTuple):
    """`count` tokens every `period_us` microseconds, as written; both are above zero."""

    count: int  # type: ignore[assignment]  # hides tuple.count, which a rate does not need
    period_us: int

    def __str__(self) -> str:
        for unit in ("second", "minute", "hour", "day"):
            if _PERIODS_US[unit] == self.period_us:
                return f"{self.count}/{unit}"
        return f"{self.count}/{duration_text(self.period_us)}"


def duration_us(value: object) -> int:
    """A duration in whole microseconds, exactly; zero is a duration."""
    if isinstance(value, int | float) and not isinstance(value, FLAG_TYPES):
        raise ValueError(f"{quote(value)} has no unit; {_A_DURATION}")  # noqa: TRY004  (one exception for all faults)
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise ValueError(f"{quote(value)} is not a duration; {_A_DURATION}")
    steps = _STEP.findall(value)
    order = [list(_UNITS_US).index(unit) for _, unit in steps]
    if order != sorted(set(order)):
        raise ValueError(f"{quote(value)} is not a duration; larger units come first, e.g. 1h30m")
    exact = sum((Fraction(number) * _UNITS_US[unit] for number, unit in steps), Fraction())
    if exact.denominator != 1:
        raise ValueError(f"{quote(value)} is finer than a microsecond; {_A_DURATION}")
    return exact.numerator


def duration_text(us: int) -> str:
    """A duration as the configuration writes it, in the largest unit that needs no decimals."""
    unit = next((unit for unit, size in _UNITS_US.items() if us % size == 0), "us") if us else "s"
    return f"{us // _UNITS_US[unit]}{unit}"


def quota(value: object) -> Quota:
    """A rate as a count and a period."""
    text = value if isinstance(value, str) else ""
    count, slash, period = text.partition("/")
    if not slash or not count or not period:
        raise ValueError(f"{quote(value)} is not a rate; {_A_RATE}{_meant(value)}")
    if not _COUNT.fullmatch(count):
        whole = "; a rate counts whole tokens, e.g. 1/2.5s or 3/2s"
        hint = whole if "." in count else f"; {_A_RATE}{_meant(value)}"
        raise ValueError(f"{quote(value)} is not a rate{hint}")
    period_us = _PERIODS_US.get(period)
    if period_us is None:
        if not _DURATION.fullmatch(period):
            raise ValueError(f"{quote(value)} is not a rate; {_A_RATE}{_meant(value)}")
        period_us = duration_us(period)
    if not int(count) or not period_us:
        raise ValueError(f"{quote(value)} never gives a token; count and period must be above zero, e.g. 10/minute")
    if int(count) > MAX_BURST:
        raise ValueError(f"{quote(value)} counts too many; expected {MAX_BURST} at most in one period")
    if period_us > MAX_PERIOD_US:
        raise ValueError(f"{quote(value)} has too long a period; expected {duration_text(MAX_PERIOD_US)} at most")
    return Quota(int(count), period_us)


def _meant(value: object) -> str:
    """A suggestion for spellings of other limiters: 10/min, 10 per hour, 10r/s, 10 / seconds."""
    match = _NEARLY_A_RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or not int(match["count"]):
        return ""
    unit = next(unit for unit in ("second", "minute", "hour", "day") if unit.startswith(match["unit"][:1].lower()))
    return f"; did you mean {int(match['count'])}/{unit}?"


def size_bytes(value: object) -> int:
    """A size in bytes."""
    if isinstance(value, int) and not isinstance(value, FLAG_TYPES) and value >= 0:
        return int(value)
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{quote(value)} is not a size; {_A_SIZE}")
    exact = Fraction(match[1]) * _SIZES[match[2] or ""]
    if exact.denominator != 1:
        raise ValueError(f"{quote(value)} is not a whole number of bytes; {_A_SIZE}")
    return exact.numerator


def size_text(size: int) -> str:
    """A size as the configuration writes it, in the largest binary unit that needs no decimals."""
    unit = next((unit for unit in ("GiB", "MiB", "KiB") if size and size % _SIZES[unit] == 0), "")
    return f"{size // _SIZES[unit]}{unit}"
