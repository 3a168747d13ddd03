"""Makes an access log of an invented shop: people, a scraper, a password guesser, a nightly job, a few bad lines.

The same options and seed make the same bytes. `docs/examples/access.log.gz` is `--lines 2500 --gzip`.

    python -m benchmarks.make_access_log --lines 1000000 > access.log
"""

import argparse
import gzip
import json
import math
import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

START_S = int(datetime(2026, 3, 2, 8, 0, tzinfo=UTC).timestamp())
# One line in so many is none that can be replayed; one in so many stands after a later one.
BAD_EVERY = 400
LATE_EVERY = 50
LATEST_S = 3

PAGES = (
    "/",
    "/api/data",
    "/api/items",
    "/api/items/17",
    "/api/items/42?full=1",
    "/api/search?q=lamp",
    "/static/app.js",
)
AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:138.0) Gecko/20100101 Firefox/138.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_4 like Mac OS X) AppleWebKit/605.1.15",
)
BAD_LINES = (
    '203.0.113.200 - - [{time}] "-" 408 0 "-" "-"',
    r'203.0.113.201 - - [{time}] "\x16\x03\x01\x02\x00" 400 157 "-" "-"',
    "logrotate: the line before was cut he",
)


class Hit(NamedTuple):
    """One request: who, what, and how it was answered."""

    client: str
    user: str
    method: str
    target: str
    status: int
    agent: str


def hits(chance: random.Random, people: int) -> Iterator[Hit]:
    """Requests without end, in proportions that stay the same."""
    while True:
        drawn = chance.random()
        if drawn < 0.12:
            page = chance.randrange(1, 5000)
            yield Hit("198.51.100.7", "", "GET", f"/api/items?page={page}", 200, "python-requests/2.32")
        elif drawn < 0.16:
            yield Hit("203.0.113.66", "", "POST", "/api/login", 401, "curl/8.5.0")
        elif drawn < 0.18:
            yield Hit("10.0.0.5", "nightly", "GET", "/api/export", 200, "job/1.0")
        elif drawn < 0.20:
            yield Hit("127.0.0.1", "", "GET", "/health", 200, "probe/1")
        else:
            yield person(chance, people)


def person(chance: random.Random, people: int) -> Hit:
    """A request of one of so many people, some of whom come far more often than others."""
    who = min(people - 1, int(chance.expovariate(6 / people)))
    client = (
        f"2001:db8:{who:x}::{chance.randrange(1, 4):x}" if who % 4 == 0 else f"192.0.{who // 250 % 250}.{who % 250 + 1}"
    )
    method = "POST" if chance.random() < 0.1 else "GET"
    return Hit(client, f"user-{who}", method, chance.choice(PAGES), 200, AGENTS[who % len(AGENTS)])


def moments(chance: random.Random, lines: int, hours: float) -> Iterator[float]:
    """Seconds since 1970: a day's swell, and now and then a line that is a little late."""
    step_s = hours * 3600 / lines
    now_s = float(START_S)
    for number in range(lines):
        swell = 1.3 + math.sin(2 * math.pi * number / lines)
        now_s += chance.expovariate(swell / step_s)
        yield now_s - (chance.uniform(0, LATEST_S) if chance.randrange(LATE_EVERY) == 0 else 0)


def combined_line(hit: Hit, moment_s: float) -> str:
    """Apache's and nginx's combined format."""
    request = f"{hit.method} {hit.target} HTTP/1.1"
    return f'{hit.client} - - [{clf_time(moment_s)}] "{request}" {hit.status} 512 "-" "{hit.agent}"'


def json_line(hit: Hit, moment_s: float) -> str:
    """JSON with the headers that a combined log lacks."""
    headers = {"User-Agent": hit.agent, **({"X-User-ID": hit.user} if hit.user else {})}
    return json.dumps(
        {
            "time": datetime.fromtimestamp(moment_s, UTC).isoformat(timespec="milliseconds"),
            "client": hit.client,
            "method": hit.method,
            "path": hit.target,
            "host": "shop.example.com",
            "status": hit.status,
            "headers": headers,
        },
        separators=(",", ":"),
    )


def clf_time(moment_s: float) -> str:
    """`02/Mar/2026:08:00:00 +0000`."""
    return datetime.fromtimestamp(int(moment_s), UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")


def log_lines(options: argparse.Namespace) -> Iterator[str]:
    """The log that the options ask for."""
    chance = random.Random(options.seed)
    line_of = json_line if options.format == "json" else combined_line
    asked = hits(chance, options.people)
    for number, moment_s in enumerate(moments(chance, options.lines, options.hours), start=1):
        if number % BAD_EVERY == 0:
            yield BAD_LINES[number // BAD_EVERY % len(BAD_LINES)].format(time=clf_time(moment_s))
        else:
            yield line_of(next(asked), moment_s)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write an invented access log to standard output.")
    parser.add_argument("--lines", type=int, default=2500)
    parser.add_argument("--hours", type=float, default=0.4, help="what the log spans, about")
    parser.add_argument("--people", type=int, default=200, help="distinct users")
    parser.add_argument("--format", choices=["combined", "json"], default="combined")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gzip", action="store_true")
    options = parser.parse_args()
    out = sys.stdout.buffer
    # Neither time nor name goes into the header, so that the same log is the same file.
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0, filename="") if options.gzip else out as sink:
        for line in log_lines(options):
            sink.write(f"{line}\n".encode())


if __name__ == "__main__":
    main()
