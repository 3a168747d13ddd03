"""`sidegate diff` lists in words what an edit changes."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sidegate.commands.output import complain_of, write_json, write_line
from sidegate.config import ConfigError, digest, load

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_diff(commands: "Commands") -> None:
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
    parser.set_defaults(alone=diff)


def diff(options: argparse.Namespace) -> int:
    """List the changes."""
    from sidegate.config.changes import changes  # noqa: PLC0415  (no other command needs it)

    refused: list[ConfigError] = []
    settings = []
    for path in (options.old, options.new):
        try:
            settings.append(load(Path(path), os.environ))
        except ConfigError as error:
            refused.append(error)
    if refused:
        for each in refused:
            complain_of(each)
        return 1
    old, new = settings
    found = changes(old, new)
    if options.json:
        listed = [{"path": path, "text": text, "needs_restart": at_restart} for path, text, at_restart in found]
        write_json({"old": digest(old), "new": digest(new), "changes": listed})
        return 0
    for change in found:
        write_line(change.text)
    if not found:
        write_line("no setting changes")
    return 0
