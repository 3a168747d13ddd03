"""A parser of command lines that suggests the command that was probably meant, and lists its own words."""

import argparse
from collections.abc import Iterator
from difflib import get_close_matches
from typing import NamedTuple, TypeAlias


class CommandWords(NamedTuple):
    """A command as its words (none for `sidegate` itself), its options, and the words that may follow, with their help.

    These are commands below it, or the choices of an argument, which have no help.
    """

    path: tuple[str, ...]
    options: tuple[str, ...]
    commands: dict[str, str]


class CommandParser(argparse.ArgumentParser):
    """An argument parser without abbreviations; its subparsers are of the same class."""

    def __init__(self, **options: object) -> None:
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)  # type: ignore[arg-type]  # as argparse takes them

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """As argparse, with a suggestion (Python 3.14 has `suggest_on_error`)."""
        if action.choices is None or value in action.choices:
            return
        known = list(map(str, action.choices))
        close = get_close_matches(str(value)[:64], known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
        raise argparse.ArgumentError(action, f"{str(value)[:64]!r} is not known; {hint}")

    def words(self, path: tuple[str, ...] = ()) -> Iterator[CommandWords]:
        """This command and those below it."""
        options = [option for action in self._actions for option in action.option_strings]
        groups = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        helps = {each.dest: each.help or "" for group in groups for each in group._get_subactions()}
        others = [action for action in self._actions if action not in groups and not action.option_strings]
        choices = {str(choice): "" for action in others for choice in action.choices or ()}
        yield CommandWords(path, tuple(options), helps | choices)
        for group in groups:
            for name, parser in group.choices.items():
                yield from parser.words((*path, name))


# What `add_subparsers` returns; argparse has no public name for it.
Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"
