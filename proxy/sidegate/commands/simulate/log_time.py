"""Parses the times of access logs into microseconds since 1970 UTC.

A time without an offset, or with the name of a zone instead, is read as UTC: limits depend only on differences between
times, and the zone is usually the same throughout a log.
"""

import re
from calendar import timegm
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLF = re.compile(
    r"(\d{1,2})/([A-Za-z]{3})/(\d{4}):(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?: *([+-]\d{4}|[A-Za-z][\w/+-]*))?"
)
_NUMBER = re.compile(r"\d{1,20}(?:\.\d{0,9})?")
# `fromisoformat` accepts any long number as a date without dashes; this pattern is checked first.
_ISO = re.compile(r"\d{4}-\d\d-\d\d|\d{8}[T ]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UTC_NAMES = {"z", "utc", "gmt"}
# The unit of a number follows from its size: seconds up to 5138-11-16, and ms, µs, ns up to the same date.
_LARGEST_S = 10**11


class Moment(NamedTuple):
    """A time in µs since 1970 UTC, and whether its offset from UTC was given."""

    us: int
    zone_known: bool = True


@lru_cache(1024)  # many requests share a second
def clf_moment(text: str) -> Moment:
    """Parse `10/Oct/2000:13:55:36 -0700`, the form of Apache and nginx. Raises ValueError."""
    found = _CLF.fullmatch(text.strip())
    if found is None:
        raise ValueError("unreadable time")
    day, month_name, year, hour, minute, second, fraction, zone = found.groups()
    month = _MONTHS.index(month_name.lower()) + 1 if month_name.lower() in _MONTHS else 0
    try:
        # A leap second (:60) counts as the second after it, as in POSIX time.
        datetime(int(year), month, int(day), int(hour), int(minute), min(int(second), 59), tzinfo=UTC)
    except ValueError as error:
        raise ValueError("unreadable time") from error
    seconds = timegm((int(year), month, int(day), int(hour), int(minute), int(second)))
    offset_s = _offset_s(zone) if zone and zone[0] in "+-" else 0
    us = (seconds - offset_s) * 1_000_000 + int((fraction or "").ljust(6, "0")[:6])
    return Moment(us, bool(zone) and (zone[0] in "+-" or zone.lower() in _UTC_NAMES))


def moment_of(value: object) -> Moment:
    """Parse ISO 8601, Apache's form, or seconds, ms, µs or ns since 1970. Raises ValueError."""
    match value:
        case bool() | None:
            raise ValueError("unreadable time")
        case int() | float():
            return Moment(_epoch_us(value))
        case str() if _NUMBER.fullmatch(value):
            return Moment(_epoch_us(float(value) if "." in value else int(value)))
        case str() if value[2:3] == "/" or value[1:2] == "/":
            return clf_moment(value)
        case str():
            return _iso_moment(value)
        case _:
            raise ValueError("unreadable time")


def _epoch_us(number: float) -> int:
    if not 0 < number < _LARGEST_S * 10**9:
        raise ValueError("unreadable time")
    if number < _LARGEST_S:
        return round(number * 1_000_000)
    if number < _LARGEST_S * 10**3:
        return round(number * 1_000)
    return round(number) if number < _LARGEST_S * 10**6 else int(number) // 1_000


def _iso_moment(text: str) -> Moment:
    stamp, _, zone = text.strip().partition(" UTC")
    try:
        if not _ISO.match(stamp):
            raise ValueError(stamp)
        read = datetime.fromisoformat(stamp.replace(",", "."))
    except ValueError as error:
        raise ValueError("unreadable time") from error
    known = read.tzinfo is not None or text.strip().endswith("UTC")
    if zone:
        raise ValueError("unreadable time")
    if read.tzinfo is None:
        read = read.replace(tzinfo=UTC)
    return Moment((read - _EPOCH) // timedelta(microseconds=1), known)


def _offset_s(zone: str) -> int:
    minutes = int(zone[1:3]) * 60 + int(zone[3:5])
    return (-minutes if zone[0] == "-" else minutes) * 60
