"""`sidegate init` writes a small configuration: it asks on a terminal, and takes flags elsewhere."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sidegate.commands.output import complain, write_line
from sidegate.commands.starter_config import StarterAnswers, starter_config
from sidegate.config import ConfigError, parse
from sidegate.config.store_url import split_credentials

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


class InitQuestion(NamedTuple):
    """One answer: its field in StarterAnswers, its flag, the question, the help of the flag."""

    name: str
    flag: str
    text: str
    help: str


QUESTIONS = (
    InitQuestion("upstream", "--upstream", "Where does the application listen?", "address of the application"),
    InitQuestion("redis", "--redis", "Where is the Redis or Valkey?", "address of the store"),
    InitQuestion("port", "--port", "On which port should clients reach the sidecar?", "port of the sidecar"),
    InitQuestion(
        "path", "--path", "Which requests are limited? (/** is all, /api/** a part)", "paths that are limited"
    ),
    InitQuestion(
        "key", "--key", "What identifies a caller? (client_ip, header:X-API-Key | client_ip, …)", "key of the buckets"
    ),
    InitQuestion(
        "limit", "--limit", "How much may each caller send? (10/s, 100/minute, 5000/day)", "limit of each key"
    ),
    InitQuestion(
        "on_failure",
        "--on-failure",
        "If the store does not answer? (deny: 503, local: a share of the limit, allow: everything passes)",
        "deny, local or allow",
    ),
    InitQuestion(
        "proxies",
        "--trusted-proxies",
        "Which proxies or load balancers are in front? (networks like 10.0.0.0/8, separated by commas; none: Enter)",
        "networks of proxies in front, separated by commas",
    ),
)


def add_init(commands: "Commands", default: str) -> None:
    """Add the command `init`."""
    parser = commands.add_parser(
        "init",
        help="write a small configuration for an application",
        description="Write a small commented configuration and check it. On a terminal it asks for what no flag gives; "
        "elsewhere, and with --yes, defaults apply. Exit status: 0 written; 1 an answer is invalid, or the file "
        "exists; 2 wrong usage.",
    )
    parser.add_argument("config", nargs="?", default=default, metavar="FILE", help="default: $CONFIG, else config.yaml")
    for name, flag, _, about in QUESTIONS:
        shown = getattr(StarterAnswers(), name) or "none"
        parser.add_argument(flag, dest=name, metavar=name.upper(), help=f"{about} (default: {shown})")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument("-y", "--yes", action="store_true", help="ask nothing")
    parser.set_defaults(alone=init)


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
    from sidegate.commands.check import check  # noqa: PLC0415  (only after the file is written)

    status = check(argparse.Namespace(config=str(path), strict=False, json=False))
    if split_credentials(answers.redis).password:
        write_line("The store's password was not written: set REDIS_PASSWORD.")
    named = "" if os.environ.get("CONFIG", "config.yaml") == str(path) else f" {path}"
    write_line(f"Next: sidegate doctor{named}   # checks store, application and ports")
    write_line(f"      sidegate run{' --config' + named if named else ''}")
    return status
