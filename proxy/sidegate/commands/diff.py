"""`sidegate diff` lists in words what an edit changes."""

import argparse
import os
from pathlib import Path

from sidegate.commands.output import complain_of, write_json, write_line
from sidegate.config import ConfigError, digest, load
from sidegate.config.changes import changes


def diff(options: argparse.Namespace) -> int:
    """List the changes."""
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
