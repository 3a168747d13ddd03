"""The load generator: wrk, and what it prints taken apart."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

# Prints the percentiles that wrk itself does not, in µs.
_SCRIPTS = Path(__file__).parent


class Outcome(NamedTuple):
    """What one run of wrk saw. `failed` counts answers of 400 and above, `broken` connections that failed."""

    requests: int
    failed: int
    broken: int
    rate: float
    p50_ms: float
    p99_ms: float
    p999_ms: float


def run(
    url: str, connections: int, seconds: int, core: int, *, body_bytes: int = 0, keys: int = 1, unlike: bool = False
) -> Outcome:
    """Load `url` from one thread on one core; with a body as POST, each time as another of many callers, or each time
    with another head.
    """
    script = _SCRIPTS / ("unlike.lua" if unlike else "percentiles.lua" if keys == 1 else "many_keys.lua")
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["-s", str(script), "-H", "X-User-ID: bench", url, "--", str(body_bytes if keys == 1 else keys)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30, cwd=_SCRIPTS)
    return parse(done.stdout)


def parse(output: str) -> Outcome:
    """Read wrk's summary. Raises ValueError where it is none."""
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
