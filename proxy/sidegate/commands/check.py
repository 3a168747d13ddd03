"""`sidegate check` reports faults and likely mistakes of a configuration."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sidegate.commands.excerpt import excerpt
from sidegate.commands.output import printable, write_json, write_line
from sidegate.config import ConfigError, ConfigFault, examine


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
