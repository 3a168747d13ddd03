"""`sidegate doctor`: runs all checks, prints what was found and what to do."""

import argparse
import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.text import Text

from sidegate.commands.doctor.diagnosis import Diagnosis, DiagnosisState, failure, ok, warning
from sidegate.commands.doctor.host_checks import check_application, check_open_files, check_ports
from sidegate.commands.doctor.store_checks import check_store
from sidegate.commands.doctor.tls_checks import check_tls
from sidegate.commands.output import printable, write_json
from sidegate.commands.rich_output import write_text
from sidegate.commands.setting_flags import given_flags
from sidegate.config import ConfigError, Examined, Settings, examine

_COLOURS = {DiagnosisState.OK: "green", DiagnosisState.WARNING: "yellow", DiagnosisState.FAILURE: "bold red"}


def doctor(options: argparse.Namespace) -> int:
    """Run all checks. Returns 1 if one failed."""
    findings = list(_findings(options))
    failed = any(each.state is DiagnosisState.FAILURE for each in findings)
    if options.json:
        listed = [
            {"state": each.state.value, "part": each.part, "text": each.text, "advice": each.advice or None}
            for each in findings
        ]
        write_json({"ok": not failed, "findings": listed})
    else:
        write_text(*map(_line, findings), _summary(findings))
    return int(failed)


def _findings(options: argparse.Namespace) -> Iterator[Diagnosis]:
    try:
        examined = examine(Path(options.config), os.environ, given_flags(options))
    except ConfigError as error:
        for fault in error.faults:
            yield failure("configuration", str(fault), "correct it; sidegate check shows the line")
        return
    settings = examined.settings
    yield from _configuration(options.config, examined)
    yield from check_tls(settings)
    yield from asyncio.run(_store(settings))
    yield from check_application(settings)
    yield from check_ports(settings)
    yield from check_open_files(settings)


def _configuration(name: str, examined: Examined) -> Iterator[Diagnosis]:
    count = len(examined.settings.policies)
    yield ok("configuration", f"{name}: valid, {count} {'policy' if count == 1 else 'policies'}")
    for each in examined.warnings:
        yield warning("configuration", each.text(), "")


async def _store(settings: Settings) -> list[Diagnosis]:
    return [each async for each in check_store(settings.store)]


def _line(finding: Diagnosis) -> Text:
    line = Text.assemble((f"{finding.state.value:<4}", _COLOURS[finding.state]), f"  {finding.part:<13}  ")
    _ = line.append(printable(finding.text))
    if finding.advice:
        _ = line.append(f"\n{'':<21}→ {printable(finding.advice)}")
    return line


def _summary(findings: list[Diagnosis]) -> Text:
    counts = Counter(each.state for each in findings)
    failures, warnings = counts[DiagnosisState.FAILURE], counts[DiagnosisState.WARNING]
    if not failures and not warnings:
        return Text("all is well", "green")
    parts = [(failures, "failure"), (warnings, "warning")]
    return Text(", ".join(f"{count} {word}{'s' if count > 1 else ''}" for count, word in parts if count))
