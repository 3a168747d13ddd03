"""`sidegate schema` prints the JSON Schema of configurations."""

import argparse

from sidegate.commands.output import write_json
from sidegate.config.schema import json_schema


def print_schema(_: argparse.Namespace) -> int:
    """Print it."""
    write_json(json_schema())
    return 0
