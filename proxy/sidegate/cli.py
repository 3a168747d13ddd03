"""The command `sidegate`. Exit status: 0 success, 1 failure, 2 wrong usage, 130 after Ctrl-C."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import sidegate
from sidegate.commands.arguments import add_explain, add_simulate
from sidegate.commands.check import add_check, add_schema
from sidegate.commands.command_parser import CommandParser
from sidegate.commands.completion import add_completion
from sidegate.commands.diff import add_diff
from sidegate.commands.fleet.admin_arguments import add_buckets, add_status, add_tail, add_top
from sidegate.commands.init import add_init
from sidegate.commands.output import complain_of
from sidegate.commands.setting_flags import add_setting_flags, given_flags
from sidegate.config import ConfigError, ConfigSource, Settings, load

_EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
DEFAULT_CONFIG = "config.yaml"
_INTERRUPTED = 128 + signal.SIGINT  # as shells report it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    if "alone" in options:
        try:
            alone: int = options.alone(options)
        except KeyboardInterrupt:
            return _INTERRUPTED
        return alone
    try:
        settings = load(Path(options.config), os.environ, given_flags(options))
    except ConfigError as error:
        complain_of(error)
        return 1
    try:
        status: int = options.do(settings, options)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def _run(settings: Settings, options: argparse.Namespace) -> int:
    from sidegate.workers.place import place_in, worker_count

    if settings.tracing.endpoint and not _can_trace():
        print(
            "sidegate: cannot start: tracing needs more packages: pip install 'sidegate[otel]'",
            file=sys.stderr,
        )
        return 1
    place, source = place_in(os.environ), ConfigSource(Path(options.config), os.environ, given_flags(options))
    try:
        if place is None and (count := worker_count(settings.listen.workers)) > 1:
            from sidegate.workers.parent import supervise

            return supervise(settings, source, count)
        from sidegate.app import run

        run(settings, source, place)
    except OSError as error:
        print(f"sidegate: cannot start: {error}", file=sys.stderr)
        return 1
    return 0


def _can_trace() -> bool:
    try:
        return find_spec("opentelemetry.sdk.trace") is not None and find_spec(_EXPORTER) is not None
    except ModuleNotFoundError:
        return False


def _doctor(options: argparse.Namespace) -> int:
    from sidegate.commands.doctor.examination import doctor

    return doctor(options)


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = CommandParser(prog="sidegate", description=sidegate.__doc__)
    parser.add_argument("--version", action="version", version=f"sidegate {sidegate.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    default = os.environ.get("CONFIG") or DEFAULT_CONFIG
    about_config = "configuration file (default: $CONFIG, else config.yaml)"

    run = commands.add_parser(
        "run",
        help="run the sidecar until SIGTERM, then drain it",
        description="Run the sidecar until SIGTERM, then drain it. A flag counts before the file, and the file before "
        "the environment variable. Flags show in the list of processes: a password belongs in $REDIS_PASSWORD.",
    )
    run.add_argument("--config", default=default, metavar="FILE", help=about_config)
    add_setting_flags(run)
    run.set_defaults(do=_run)

    add_init(commands, default)
    doctor = commands.add_parser(
        "doctor",
        help="check configuration, store, application, ports and open files, with advice",
        description="Check what a sidecar with this configuration needs: configuration, store (version, role, rights, "
        "eviction, round trip, clock), application, ports, open files. Exit status: 0 no failure; 1 a check failed; "
        "2 wrong usage.",
    )
    doctor.add_argument("config", nargs="?", default=default, metavar="FILE", help=about_config)
    add_setting_flags(doctor)
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(alone=_doctor)
    add_check(commands, default, about_config)
    add_diff(commands)
    add_schema(commands)
    add_explain(commands)
    add_simulate(commands)
    add_status(commands)
    add_top(commands)
    add_tail(commands)
    add_buckets(commands)
    add_completion(commands, parser)
    return parser
