"""`sidegate tail`: follows the refusals of all sidecars."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from sidegate.commands.fleet.sidecars import SidecarReply, ask, encoded_key
from sidegate.commands.output import complain, is_stdout_closed, write_line

# Sidecars make entries once a second.
EVERY_S = 1.0
# Entries from before the start that are shown.
FIRST_LINES = 10


def tail(options: argparse.Namespace) -> int:
    """Print refusals until Ctrl-C, or until stdout is closed. Returns 1 if no sidecar answers at the start."""
    positions = dict.fromkeys(options.admin, 0)
    faults: dict[str, str] = {}
    is_first = True
    while not is_stdout_closed():
        replies = _ask(positions)
        _report_changes(replies, faults)
        if is_first and len(faults) == len(replies):
            return 1
        entries = sorted(_entries(replies, positions, options), key=lambda pair: str(pair[1]["time"]))
        for name, entry in entries[-FIRST_LINES:] if is_first else entries:
            write_line(json.dumps({"sidecar": name, **entry}) if options.json else _line(name, entry))
        if options.once:
            return 0
        is_first = False
        time.sleep(EVERY_S)
    return 0


def _ask(positions: Mapping[str, int]) -> list[SidecarReply]:
    with ThreadPoolExecutor(max(1, len(positions))) as pool:
        return list(pool.map(lambda each: ask(each[0], f"/refusals?after={each[1]}"), positions.items()))


def _entries(
    replies: list[SidecarReply], positions: dict[str, int], options: argparse.Namespace
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """New entries that pass the filters, with the sidecar's name; moves the positions on."""
    keys = {options.key, encoded_key(options.key or "")}
    for reply in replies:
        if reply.fault:
            continue
        positions[reply.url] = reply.content["last"]
        for entry in reply.content["refusals"]:
            if options.policy in (None, entry["policy"]) and (options.key is None or entry["key"] in keys):
                yield reply.name, entry


def _report_changes(replies: list[SidecarReply], faults: dict[str, str]) -> None:
    """Report a sidecar that stops answering once, and once that it answers again."""
    for reply in replies:
        before = faults.get(reply.url)
        if reply.fault and reply.fault != before:
            faults[reply.url] = reply.fault
            complain(f"{reply.name}: {reply.fault}")
        elif not reply.fault and before is not None:
            del faults[reply.url]
            complain(f"{reply.name}: answers again")
    sys.stderr.flush()


def _line(name: str, entry: Mapping[str, Any]) -> str:
    at = datetime.fromisoformat(entry["time"]).astimezone().strftime("%H:%M:%S")
    count = f" {entry['count']} times" if entry["count"] > 1 else ""
    wait = "" if entry["retry_after_s"] is None else f", next in {entry['retry_after_s']:g} s"
    request = f"{entry['method']} {entry['path']} from {entry['client']}"
    return f"{at}  {name}  {entry['policy']}  {entry['key']}{count}  {request}{wait}"
