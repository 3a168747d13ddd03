"""Checks the patterns of a match and compiles them to regular expressions.

Paths are matched in canonical form (decision/request): `*` is any run of characters within one segment, `**` any
number of whole segments. In hosts and field values `*` is any run of characters.

Matching takes linear time for each star: a star stops at the nearest place where the text after it fits and does not
backtrack (`(?>...)`). That loses no match, since the next star covers everything that a longer run would; only the text
after the last star must reach the end.
"""

import re
from itertools import groupby

from sidegate.config.faults import quote

# Bounds the cost of one pattern for each request.
MAX_STARS = 16
MAX_PATTERN_CHARS = 1024

_ANY_SEGMENT = r"(?:/[^/]*+)"
_HOST = re.compile(r"[A-Za-z0-9*_.-]+|\[[0-9A-Fa-f:.*]+\]")


def checked_path(pattern: str) -> str:
    """The pattern of a path, normalised for `path_regex`. Raises ValueError with a sentence."""
    if pattern.startswith("^") or pattern.endswith("$"):
        raise ValueError(f"{quote(pattern)} is a regular expression; expected * and **, e.g. /api/**")
    if not pattern.startswith("/"):
        raise ValueError(f"{quote(pattern)} does not begin with a slash; expected e.g. /api/**")
    bare = pattern.rstrip("/") or "/"
    segments = bare[1:].split("/") if bare != "/" else []
    for segment in segments:
        _check_segment(pattern, segment)
    _check_stars(bare, sum(1 if segment == "**" else len(re.findall(r"\*+", segment)) for segment in segments))
    return bare


def _check_segment(pattern: str, segment: str) -> None:
    if not segment:
        raise ValueError(f"{quote(pattern)} holds an empty segment, which no path has once its slashes are merged")
    if segment in {".", ".."}:
        raise ValueError(f"{quote(pattern)} holds the segment {segment!r}, which no path has once it is resolved")
    if "**" in segment and segment != "**":
        raise ValueError(f"{quote(pattern)} joins ** with other characters; ** is a whole segment, e.g. /api/**")
    if "?" in segment or "#" in segment:
        raise ValueError(f"{quote(pattern)} holds a query or a fragment; a path is matched without them")
    if "%" in segment.replace("%2F", ""):
        raise ValueError(
            f"{quote(pattern)} holds a percent sign; paths are matched decoded, write the character itself"
        )
    if "\\" in segment or not segment.isprintable():
        raise ValueError(f"{quote(pattern)} holds a backslash or a control character, which no path has")


def checked_host(pattern: str) -> str:
    """The pattern of a host in lower case and without the dot of a full name. Raises ValueError with a sentence."""
    if re.fullmatch(r".+:[0-9]*", pattern) and not pattern.endswith("]"):
        raise ValueError(f"{quote(pattern)} names a port; hosts are matched without it, e.g. api.example.com")
    if not _HOST.fullmatch(pattern):
        raise ValueError(f"{quote(pattern)} is not a host; expected e.g. api.example.com, *.example.com, [2001:db8::1]")
    _check_stars(pattern, len(re.findall(r"\*+", pattern)))
    return pattern.lower().removesuffix(".")


def checked_value(pattern: str) -> str:
    """The pattern of a field's value. Raises ValueError with a sentence."""
    if pattern != pattern.strip(" \t"):
        raise ValueError(f"{quote(pattern)} begins or ends with a space; values are matched without those")
    _check_stars(pattern, len(re.findall(r"\*+", pattern)))
    return pattern


def _check_stars(pattern: str, stars: int) -> None:
    if stars > MAX_STARS:
        raise ValueError(f"{quote(pattern)} holds {stars} stars; at most {MAX_STARS}")
    if len(pattern) > MAX_PATTERN_CHARS:
        raise ValueError(f"{quote(pattern)} is longer than {MAX_PATTERN_CHARS} characters")


def path_regex(pattern: str) -> str:
    """The regular expression, for `fullmatch`, of a path pattern that was checked."""
    if pattern == "/":
        return "/"
    runs = [(deep, list(run)) for deep, run in groupby(pattern[1:].split("/"), lambda segment: segment == "**")]
    regex = ""
    for number, (deep, run) in enumerate(runs):
        last = number == len(runs) - 1
        if deep:
            regex += "(?:/.*)?" if last else ""
            continue
        block = "".join("/" + _segment_regex(segment) for segment in run)
        after_deep = number > 0
        if not after_deep:
            regex += block
        elif last:
            regex += f"{_ANY_SEGMENT}*?{block}"
        else:
            regex += f"(?>{_ANY_SEGMENT}*?{block})"
    return f"(?s:{regex})"


def _segment_regex(segment: str) -> str:
    return f"{_run_regex(segment, '[^/]')}(?![^/])" if "*" in segment else re.escape(segment) + "(?![^/])"


def text_regex(pattern: str) -> str:
    """The regular expression, for `fullmatch`, of a host or value pattern that was checked."""
    return f"(?s:{_run_regex(pattern, '.')})"


def _run_regex(pattern: str, character: str) -> str:
    """Stars and the text between them, over one class of characters; the caller anchors the end."""
    first, *pieces = re.split(r"\*+", pattern)
    regex = re.escape(first)
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        if last:
            regex += f"{character}*{re.escape(piece)}"
        elif piece:
            regex += f"(?>{character}*?{re.escape(piece)})"
    return regex
