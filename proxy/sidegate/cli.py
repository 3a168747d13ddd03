"""The command `sidegate`. Exit status: 0 success, 1 failure, 2 wrong usage, 130 after Ctrl-C.

The command line is built from modules that import little. Only `_implementation` imports what carries a command out.
"""

import argparse
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pkgutil import resolve_name

import sidegate
from sidegate.commands.command_parser import CommandParser
from sidegate.commands.completion import add_completion
from sidegate.commands.config_arguments import add_check, add_diff, add_doctor, add_init, add_run, add_schema
from sidegate.commands.fleet.admin_arguments import add_buckets, add_status, add_tail, add_top
from sidegate.commands.request_arguments import add_explain, add_simulate

_MISUSED = 2
_INTERRUPTED = 128 + signal.SIGINT  # as shells report it
# The function that carries each command out, in sidegate.commands.
_IMPLEMENTATIONS = {
    "run": "run:run",
    "init": "init:init",
    "doctor": "doctor.examination:doctor",
    "check": "check:check",
    "diff": "diff:diff",
    "schema": "print_schema:print_schema",
    "explain": "explain:explain_request",
    "simulate": "simulate.command:simulate",
    "status": "fleet.status:status",
    "top": "fleet.top:top",
    "tail": "fleet.tail:tail",
    "buckets": "fleet.buckets:buckets",
    "completion": "completion:print_completion",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if "admin" in options:
        from sidegate.commands.fleet.admin_targets import complete_targets

        if not complete_targets(options):
            return _MISUSED
    try:
        return _implementation(options, parser)(options)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parser() -> CommandParser:
    parser = CommandParser(prog="sidegate", description=sidegate.__doc__)
    parser.add_argument("--version", action="version", version=f"sidegate {sidegate.__version__} ({sidegate.build()})")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    add_run(commands)
    add_init(commands)
    add_doctor(commands)
    add_check(commands)
    add_diff(commands)
    add_schema(commands)
    add_explain(commands)
    add_simulate(commands)
    add_status(commands)
    add_top(commands)
    add_tail(commands)
    add_buckets(commands)
    add_completion(commands)
    return parser


def _implementation(options: argparse.Namespace, parser: CommandParser) -> Callable[[argparse.Namespace], int]:
    """The function that carries the command out. Its modules are loaded for this command alone."""
    found: Callable[..., int] = resolve_name(f"sidegate.commands.{_IMPLEMENTATIONS[options.command]}")
    return partial(found, parser) if options.command == "completion" else found
