"""Removes what container runtimes, syslog and tools write in front of a line of an access log."""

import re

from sidegate.commands.simulate.logged_request import BadLine

_ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?"
_SYSLOG_TIME = r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d+)?"
_PREFIX = re.compile(
    "|".join(
        (
            # syslog (RFC 3164), journald: `<190>Mar  2 08:00:00 host nginx[12]: `
            rf"(?:<\d{{1,3}}>)?(?:{_SYSLOG_TIME}|{_ISO}) (?:\S+ )?[\w./-]+(?:\[\d+\])?: ",
            # syslog (RFC 5424): `<190>1 2026-03-02T08:00:00Z host nginx 12 - - `
            r"<\d{1,3}>1 \S+ \S+ \S+ \S+ \S+ (?:-|(?:\[[^\]]*\])+) (?:\ufeff)?",
            # Kubernetes (CRI): `2026-03-02T08:00:00.123456789Z stdout F `; P marks a part of a line
            rf"{_ISO} (?:stdout|stderr) (?P<cri>[FP])(?::\w+)* ",
            # docker compose logs: `web-1  | `
            r"[\w.-]+ +\| ",
            # kubectl logs --prefix: `[pod/web-0/nginx] `
            r"\[[\w.-]+(?:/[\w.-]+)+\] ",
        )
    )
)
# docker logs --timestamps, kubectl logs --timestamps. Some formats begin with a time themselves.
_TIMESTAMP = re.compile(rf"{_ISO} (?=\S)")
# Prefixes may be combined: the time of `docker compose logs --timestamps` stands behind a name.
_MOST_PREFIXES = 3


def without_prefixes(line: str) -> str:
    """Return the line without its known prefixes, except a time alone. Raises BadLine for a part of a line."""
    for _ in range(_MOST_PREFIXES):
        found = _PREFIX.match(line)
        if found is None:
            break
        if found["cri"] == "P":
            raise BadLine("part of a line that the container runtime split")
        line = line[found.end() :]
    return line


def without_timestamp(line: str) -> str:
    """Return the line without a time at its beginning."""
    found = _TIMESTAMP.match(line)
    return line[found.end() :] if found else line
