"""`sidegate check` reports faults and likely mistakes of a configuration; `sidegate schema` prints its JSON Schema."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sidegate.commands.excerpt import excerpt
from sidegate.commands.output import printable, write_json, write_line
from sidegate.config import ConfigError, ConfigFault, examine

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_check(commands: "Commands", default: str, about: str) -> None:
    """Add the command `check`."""
    parser = commands.add_parser(
        "check",
        help="validate a configuration, with line and column of each fault",
        description="Validate a configuration, and warn of likely mistakes. Exit status: 0 valid; 1 invalid; 2 misuse.",
    )
    parser.add_argument("config", nargs="?", default=default, metavar="FILE", help=about)
    parser.add_argument("--strict", action="store_true", help="treat warnings as faults")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(alone=check)


def add_schema(commands: "Commands") -> None:
    """Add the command `schema`."""
    parser = commands.add_parser("schema", help="print the JSON Schema of configurations, for editors")
    parser.set_defaults(alone=print_schema)


def check(options: argparse.Namespace) -> int:
    """Report all faults and warnings of a configuration. Returns 0 if it is valid, else 1."""
    faults: Sequence[ConfigFault] = ()
    warnings: Sequence[ConfigFault] = ()
    policies = 0
    try:
        examined = examine(Path(options.config), os.environ)
        warnings, policies = examined.warnings, len(examined.settings.policies)
    except ConfigError as error:
        faults = error.faults
    invalid = bool(faults or (options.strict and warnings))
    if options.json:
        write_json(
            {
                "file": options.config,
                "valid": not invalid,
                "policies": policies,
                "faults": list(map(_described, faults)),
                "warnings": list(map(_described, warnings)),
            }
        )
        return int(invalid)
    for fault in faults:
        _report(str(fault), fault)
    for warning in warnings:
        _report(warning.text("warning: "), warning)
    if not invalid:
        more = f", {_counted(len(warnings), 'warning')}" if warnings else ""
        write_line(f"{options.config}: valid, {_counted(policies, 'policy', 'policies')}{more}")
    return int(invalid)


def print_schema(_: argparse.Namespace) -> int:
    """Print the JSON Schema of configurations."""
    from sidegate.config.schema import json_schema  # noqa: PLC0415  (no other command needs it)

    write_json(json_schema())
    return 0


def _report(line: str, fault: ConfigFault) -> None:
    sys.stderr.write(f"{printable(line)}\n")
    if sys.stderr.isatty() and (lines := excerpt(fault)):
        sys.stderr.write(f"{lines}\n")


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
