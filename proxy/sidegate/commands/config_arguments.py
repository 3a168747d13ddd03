"""Command-line arguments of the commands about one configuration: run, init, doctor, check, diff, schema."""

import argparse
import os

from sidegate.commands.command_parser import Commands
from sidegate.commands.setting_flags import add_setting_flags
from sidegate.commands.starter_answers import QUESTIONS, StarterAnswers

DEFAULT_CONFIG = "config.yaml"
_ABOUT_CONFIG = "configuration file (default: $CONFIG, else config.yaml)"


def add_run(commands: Commands) -> None:
    """Add the command `run`."""
    parser = commands.add_parser(
        "run",
        help="run the sidecar until SIGTERM, then drain it",
        description="Run the sidecar until SIGTERM, then drain it. A flag counts before the file, and the file before "
        "the environment variable. Flags show in the list of processes: a password belongs in $REDIS_PASSWORD.",
    )
    parser.add_argument("--config", default=_default(), metavar="FILE", help=_ABOUT_CONFIG)
    add_setting_flags(parser)


def add_init(commands: Commands) -> None:
    """Add the command `init`."""
    parser = commands.add_parser(
        "init",
        help="write a small configuration for an application",
        description="Write a small commented configuration and check it. On a terminal it asks for what no flag gives; "
        "elsewhere, and with --yes, defaults apply. Exit status: 0 written; 1 an answer is invalid, or the file "
        "exists; 2 wrong usage.",
    )
    _add_file(parser, "default: $CONFIG, else config.yaml")
    for name, flag, _, about in QUESTIONS:
        shown = getattr(StarterAnswers(), name) or "none"
        parser.add_argument(flag, dest=name, metavar=name.upper(), help=f"{about} (default: {shown})")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument("-y", "--yes", action="store_true", help="ask nothing")


def add_doctor(commands: Commands) -> None:
    """Add the command `doctor`."""
    parser = commands.add_parser(
        "doctor",
        help="check configuration, store, application, ports, certificates and open files, with advice",
        description="Check what a sidecar with this configuration needs: configuration, certificates, store (version, "
        "role, rights, eviction, round trip, clock; all masters of a Cluster), application, ports or Unix socket, open "
        "files. Exit status: 0 no failure; 1 a check failed; 2 wrong usage.",
    )
    _add_file(parser, _ABOUT_CONFIG)
    add_setting_flags(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_check(commands: Commands) -> None:
    """Add the command `check`."""
    parser = commands.add_parser(
        "check",
        help="validate a configuration, with line and column of each fault",
        description="Validate a configuration, and warn of likely mistakes. Exit status: 0 valid; 1 invalid; 2 misuse.",
    )
    _add_file(parser, _ABOUT_CONFIG)
    parser.add_argument("--strict", action="store_true", help="treat warnings as faults")
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_diff(commands: Commands) -> None:
    """Add the command `diff`."""
    parser = commands.add_parser(
        "diff",
        help="list in words what an edit of a configuration changes",
        description="List in words what NEW changes in OLD, one change in each line: the words of the log line "
        "config_reloaded. Secrets are masked. Exit status: 0 success, also without changes; 1 a configuration is "
        "invalid; 2 wrong usage.",
    )
    parser.add_argument("old", metavar="OLD", help="a configuration, e.g. the active one")
    parser.add_argument("new", metavar="NEW", help="the edit")
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_schema(commands: Commands) -> None:
    """Add the command `schema`."""
    commands.add_parser("schema", help="print the JSON Schema of configurations, for editors")


def _add_file(parser: argparse.ArgumentParser, about: str) -> None:
    parser.add_argument("config", nargs="?", default=_default(), metavar="FILE", help=about)


def _default() -> str:
    return os.environ.get("CONFIG") or DEFAULT_CONFIG
