"""`sidegate init` writes a small configuration: it asks on a terminal, and takes flags elsewhere."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from sidegate.commands.check import check
from sidegate.commands.output import complain, write_line
from sidegate.commands.starter_answers import QUESTIONS, InitQuestion, StarterAnswers
from sidegate.commands.starter_config import starter_config
from sidegate.config import ConfigError, parse
from sidegate.config.store_url import split_credentials


def init(options: argparse.Namespace) -> int:
    """Write the file. Nothing is written unless it is valid."""
    path = Path(options.config)
    if path.exists() and not options.force:
        complain(f"{path} exists; --force replaces it")
        return 1
    given = {each.name: text for each in QUESTIONS if (text := getattr(options, each.name)) is not None}
    answers = StarterAnswers(**given)
    if fault := _fault(answers):
        for each in fault.faults:
            complain(f"{each.path}: {each.message}")
        return 1
    if sys.stdin.isatty() and not options.yes:
        try:
            answers = _asked(answers, [each for each in QUESTIONS if each.name not in given])
        except EOFError:
            complain("nothing was written")
            return 1
    try:
        _write(path, starter_config(answers))
    except OSError as error:
        complain(f"{path} cannot be written: {error.strerror or error}")
        return 1
    return _report(path, answers)


def _asked(answers: StarterAnswers, questions: list[InitQuestion]) -> StarterAnswers:
    """Ask each question until its answer is valid. Raises EOFError at the end of the input."""
    for question in questions:
        default = getattr(answers, question.name)
        while True:
            text = input(f"{question.text}\n  [{default or 'none'}] ").strip() or default
            tried = replace(answers, **{question.name: text})
            if (error := _fault(tried)) is None:
                answers = tried
                break
            for each in error.faults:
                complain(each.message)
    return answers


def _fault(answers: StarterAnswers) -> ConfigError | None:
    try:
        parse(starter_config(answers), "init", {})
    except ConfigError as error:
        return error
    return None


def _write(path: Path, text: str) -> None:
    """Replace the file at once, so that a running sidecar never reads half of it."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, "utf-8")
    new.replace(path)


def _report(path: Path, answers: StarterAnswers) -> int:
    status = check(argparse.Namespace(config=str(path), strict=False, json=False))
    if split_credentials(answers.redis).password:
        write_line("The store's password was not written: set REDIS_PASSWORD.")
    named = "" if os.environ.get("CONFIG", "config.yaml") == str(path) else f" {path}"
    write_line(f"Next: sidegate doctor{named}   # checks store, application and ports")
    write_line(f"      sidegate run{' --config' + named if named else ''}")
    return status
