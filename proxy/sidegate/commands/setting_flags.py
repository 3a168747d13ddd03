"""The flags of `run` and `doctor` that stand in for settings."""

import argparse

from sidegate.adjustable import ADJUSTABLE


def add_setting_flags(parser: argparse.ArgumentParser) -> None:
    """Add --port, --upstream, --redis and --admin-port."""
    for path, variable, flag in ADJUSTABLE:
        if flag:
            parser.add_argument(
                flag, dest=flag, metavar=path[1].upper(), help=f"{'.'.join(path)} (else the file, else ${variable})"
            )


def given_flags(options: argparse.Namespace) -> dict[str, str]:
    """The flags that were given, with their values; empty for commands without them."""
    found = {each.flag: getattr(options, each.flag, None) for each in ADJUSTABLE if each.flag}
    return {flag: text for flag, text in found.items() if text is not None}
