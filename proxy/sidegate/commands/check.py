"""`sidegate check` says what is wrong with a configuration and what in it is hardly meant; `sidegate schema` prints its
JSON Schema for editors."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sidegate.commands.excerpt import excerpt
from sidegate.commands.output import printable, write_json
from sidegate.config import ConfigError, ConfigFault, examine

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_check(commands: "Commands", default: str, about: str) -> None:
    """Add the command `check`."""
    parser = commands.add_parser(
        "check", help="say what is wrong with a configuration, and where", description=check.__doc__
    )
    parser.add_argument("config", nargs="?", default=default, metavar="FILE", help=about)
    parser.add_argument("--strict", action="store_true", help="take warnings for faults")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(alone=check)


def add_schema(commands: "Commands") -> None:
    """Add the command `schema`."""
    parser = commands.add_parser("schema", help="print the JSON Schema of configurations, for editors")
    parser.set_defaults(alone=print_schema)


def check(options: argparse.Namespace) -> int:
    """Say what is wrong with a configuration, and what in it is hardly meant. Exit status: 0 right, 1 wrong."""
    faults: Sequence[ConfigFault] = ()
    warnings: Sequence[ConfigFault] = ()
    policies = 0
    try:
        examined = examine(Path(options.config), os.environ)
        warnings, policies = examined.warnings, len(examined.settings.policies)
    except ConfigError as error:
        faults = error.faults
    wrong = bool(faults or (options.strict and warnings))
    if options.json:
        write_json(
            {
                "file": options.config,
                "right": not wrong,
                "policies": policies,
                "faults": list(map(_described, faults)),
                "warnings": list(map(_described, warnings)),
            }
        )
        return int(wrong)
    for fault in faults:
        _say(str(fault), fault)
    for warning in warnings:
        _say(warning.text("warning: "), warning)
    if not wrong:
        told = f", {_counted(len(warnings), 'warning')}" if warnings else ""
        sys.stdout.write(f"{printable(options.config)}: right, {_counted(policies, 'policy', 'policies')}{told}\n")
    return int(wrong)


def print_schema(_: argparse.Namespace) -> int:
    """Print the JSON Schema of configurations."""
    from sidegate.config.schema import json_schema  # noqa: PLC0415  (no other command needs it)

    write_json(json_schema())
    return 0


def _say(line: str, fault: ConfigFault) -> None:
    sys.stderr.write(f"{printable(line)}\n")
    if sys.stderr.isatty() and (shown := excerpt(fault)):
        sys.stderr.write(f"{shown}\n")


def _described(fault: ConfigFault) -> dict[str, object]:
    return {
        "file": fault.file,
        "line": fault.line,
        "column": fault.column,
        "path": fault.path,
        "message": fault.message,
    }


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
