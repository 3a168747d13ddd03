"""Runs the load generator wrk and parses its summary."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_SCRIPTS = Path(__file__).parent


class Outcome(NamedTuple):
    """Summary of one run. `failed` counts responses with status 400 and above, `broken` socket errors."""

    requests: int
    failed: int
    broken: int
    rate: float
    p50_ms: float
    p99_ms: float
    p999_ms: float


def run(
    url: str, connections: int, seconds: int, core: int, *, body_bytes: int = 0, keys: int = 1, users: int = 0
) -> Outcome:
    """Load `url` with one thread on one core.

    `users`: send heads as an ingress does, each different, for this many users in turn. Otherwise all heads are equal,
    but for X-User-ID with more than one of `keys`; `body_bytes` makes the requests POST.
    """
    script, argument = _script(body_bytes, keys, users)
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["-s", str(_SCRIPTS / script), "-H", "X-User-ID: bench", url, "--", str(argument)]
    return parse(_output(command, seconds + 30))


def _script(body_bytes: int, keys: int, users: int) -> tuple[str, int]:
    if users:
        return "ingress.lua", users
    return ("percentiles.lua", body_bytes) if keys == 1 else ("many_keys.lua", keys)


def _output(command: Sequence[str], timeout_s: int) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=timeout_s, cwd=_SCRIPTS).stdout


def parse(output: str) -> Outcome:
    """Parse wrk's summary. Raises ValueError if a line is missing."""
    p50, p99, p999 = (float(_found(rf"^percentile {each} (\S+)", output)) / 1000 for each in ("50", "99", "99.9"))
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    return Outcome(
        requests=int(_found(r"^\s*(\d+) requests in", output)),
        failed=int(_found(r"Non-2xx or 3xx responses: (\d+)", output, "0")),
        broken=sum(map(int, errors.groups())) if errors else 0,
        rate=float(_found(r"^Requests/sec:\s+(\S+)", output)),
        p50_ms=p50,
        p99_ms=p99,
        p999_ms=p999,
    )


def _found(pattern: str, text: str, default: str | None = None) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is not None:
        return match[1]
    if default is None:
        raise ValueError(f"wrk printed no {pattern!r}:\n{text}")
    return default
