"""Load-tests running sidecars and checks the responses against their policies.

    python -m benchmarks.load test [--user ID] [--requests 15]
    python -m benchmarks.load load [--users 20] [--duration 10] [--concurrency 32 | --rate 500] [--json]

Reads the limits from `/api/status` of each sidecar. Environment: PROXY_URLS (targets, by comma or
space), USER_ID (for `test`). Exit status: 0 all went as the policies say; 1 not, or a sidecar cannot be measured;
2 misused.
"""

import argparse
import asyncio
import json
import os
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TypeVar
from urllib.parse import urlsplit

import uvloop

from benchmarks import load_report
from benchmarks.load_client import SidecarFault
from benchmarks.load_run import Load, Schedule
from benchmarks.load_run import run as run_load
from benchmarks.load_terminal import READER_LEFT, open_terminal, speaks_unicode
from benchmarks.load_walk import Walk, walk

T = TypeVar("T")

TARGETS = "http://127.0.0.1:8081,http://127.0.0.1:8082,http://127.0.0.1:8083"
CONCURRENCY = 32
# Slow responses must not delay an open loop, so it may have more requests in flight.
CONCURRENCY_OPEN = 256
# Connections are file descriptors, and 1024 of those is what a process commonly may have.
CONCURRENCY_MAX = 960
DURATION_S = 10.0
USERS_MAX = 100_000
REQUESTS_MAX = 10**9


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status; raises SystemExit(2) where it is misused."""
    options = parse(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    try:
        return uvloop.run(carry_out(options))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_LEFT


async def carry_out(options: argparse.Namespace) -> int:
    """Carry out a parsed command line. Returns the exit status."""
    try:
        return await (_test(options) if options.command == "test" else _load(options))
    except SidecarFault as fault:
        open_terminal(sys.stderr).print(f"load: {fault}", style="red", soft_wrap=True)
        return 1


async def _test(options: argparse.Namespace) -> int:
    plan = Walk(options.user, options.targets, options.requests, options.path, options.status_path, options.timeout)
    return 0 if await walk(plan, open_terminal(sys.stdout)) else 1


async def _load(options: argparse.Namespace) -> int:
    run_id = secrets.token_hex(3)
    endless = options.requests is None and options.duration is None
    plan = Load(
        users=tuple(f"load-{run_id}-{number}" for number in range(1, options.users + 1)),
        targets=options.targets,
        path=options.path,
        status_path=options.status_path,
        concurrency=options.concurrency or (CONCURRENCY if options.rate is None else CONCURRENCY_OPEN),
        rate=options.rate,
        requests=options.requests,
        duration_s=DURATION_S if endless else options.duration,
        timeout_s=options.timeout,
    )
    stop = _Stop()
    try:
        tally = await run_load(plan, stop.listen)
    finally:
        stop.close()
    if options.json:
        print(json.dumps(load_report.document(plan, tally, interrupted=stop.called)), flush=True)
    else:
        unicode = speaks_unicode(sys.stdout)
        out = open_terminal(sys.stdout)
        load_report.show(plan, tally, interrupted=stop.called, out=out, unicode=unicode)
    return 1 if tally.faults() else 0


class _Stop:
    """The first Ctrl-C ends the run early, and it is still reported; a second one interrupts."""

    def __init__(self) -> None:
        self.called = False

    def listen(self, schedule: Schedule) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._call, schedule)

    def close(self) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)

    def _call(self, schedule: Schedule) -> None:
        self.called = True
        self.close()
        schedule.end()


# -- the command line -------------------------------------------------------------------------------------------------


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line as values. Raises SystemExit(2), with a message, where it is misused."""
    about = "Load running sidecars and check their answers against their policies."
    parser = argparse.ArgumentParser(prog="load", description=about)
    commands = parser.add_subparsers(dest="command", required=True)
    test = commands.add_parser("test", help="one user's requests, one after the other, round the sidecars")
    load = commands.add_parser("load", help="many users at once")
    for command in (test, load):
        command.add_argument("--targets", type=_targets, help=f"sidecars, by comma (default: PROXY_URLS or {TARGETS})")
        command.add_argument("--path", type=_path, default="/api/data", help="what to ask for (%(default)s)")
        command.add_argument("--status-path", type=_path, default="/api/status", help="%(default)s")
        command.add_argument("--timeout", type=_positive, default=10.0, help="seconds for one answer (%(default)s)")
    test.add_argument("--user", type=_user, help="default: USER_ID, or a fresh one")
    test.add_argument("--requests", type=_WholeNumber(REQUESTS_MAX), default=15, help="%(default)s")
    load.add_argument("--users", type=_WholeNumber(USERS_MAX), default=20, help="fresh users (%(default)s)")
    load.add_argument("--requests", type=_WholeNumber(REQUESTS_MAX), help="end after so many")
    load.add_argument(
        "--duration", type=_positive, help=f"end after so many seconds (without --requests: {DURATION_S:g})"
    )
    load.add_argument(
        "--concurrency",
        type=_WholeNumber(CONCURRENCY_MAX),
        help=f"in flight at most ({CONCURRENCY}; with --rate {CONCURRENCY_OPEN})",
    )
    load.add_argument(
        "--rate", type=_positive, help="requests a second, sent when due (open loop); default: closed loop"
    )
    load.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    options = parser.parse_args(argv)
    if options.targets is None:
        options.targets = _from_environment(parser, "PROXY_URLS", _targets, TARGETS)
    if options.command == "test" and options.user is None:
        options.user = _from_environment(parser, "USER_ID", _user, f"user-{secrets.token_hex(4)}")
    return options


def _from_environment(parser: argparse.ArgumentParser, name: str, read: Callable[[str], T], default: str) -> T:
    try:
        return read(os.environ.get(name) or default)
    except argparse.ArgumentTypeError as error:
        parser.error(f"{name}: {error}")


def _targets(text: str) -> tuple[str, ...]:
    targets = tuple(target.rstrip("/") for target in text.replace(",", " ").split())
    for target in targets:
        if not _is_origin(target):
            raise argparse.ArgumentTypeError(f"expected URLs like http://127.0.0.1:8081, found {target!r}")
    if not targets:
        raise argparse.ArgumentTypeError("expected at least one URL")
    return targets


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and not any(parts[2:])
    except ValueError:
        return False


def _path(text: str) -> str:
    if not text.startswith("/") or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError(f"expected a path like /api/data, found {text!r}")
    return text


def _user(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"expected a name that fits a header field, found {text!r}")
    return text


@dataclass(frozen=True, slots=True)
class _WholeNumber:
    """Reads a whole number from 1 to `most`."""

    most: int

    def __call__(self, text: str) -> int:
        if text.isascii() and text.isdigit() and 1 <= int(text) <= self.most:
            return int(text)
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {self.most}, found {text!r}")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if value > 0 and isfinite(value):
        return value
    raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")


if __name__ == "__main__":
    sys.exit(main())
