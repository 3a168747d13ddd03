"""`sidegate top`: figures of all sidecars, live in a terminal."""

import argparse
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Sequence
from dataclasses import asdict
from typing import Self

from rich.console import Console
from rich.live import Live

from sidegate.commands.fleet.fitted_table import Room, scrolling_room
from sidegate.commands.fleet.sidecars import SidecarReply, ask_all
from sidegate.commands.fleet.top_screen import MOST_KEYS, screen
from sidegate.commands.fleet.traffic import POLICIES_S, policy_figures, refused_keys, totals_of_overviews
from sidegate.commands.output import complain, write_json
from sidegate.commands.rich_output import write_text

Replies = tuple[list[SidecarReply], list[SidecarReply]]


def top(options: argparse.Namespace) -> int:
    """Show it until interrupted, or once. Returns 1 if no sidecar answers, 2 without a terminal."""
    if options.once or options.json:
        replies = _ask(options)
        if options.json:
            write_json(_as_json(*replies))
        elif answered(replies):
            write_text(screen(*replies, scrolling_room()))
        _report_faults(replies)
        return 0 if answered(replies) else 1
    if not sys.stdout.isatty():
        complain("top needs a terminal; use --once or --json")
        return 2
    replies = _ask(options)
    if not answered(replies):
        _report_faults(replies)
        return 1
    _follow(options)
    return 0


def answered(replies: Replies) -> bool:
    """Whether any sidecar answered."""
    return any(not reply.fault for reply in replies[0])


def _report_faults(replies: Replies) -> None:
    for reply in replies[0]:
        if reply.fault:
            complain(f"{reply.name}: {reply.fault}")


def _follow(options: argparse.Namespace) -> None:
    """Refresh until `q`, Ctrl-C or SIGTERM. The terminal is restored at the end."""
    console = Console(markup=False, highlight=False, emoji=False)
    try:
        with _Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
            while not keys.ended:
                replies = _ask(options)
                until_s = time.monotonic() + options.interval
                while not keys.ended:
                    live.update(screen(*replies, Room(console.width, console.height)), refresh=True)
                    if not keys.wait(until_s - time.monotonic()):
                        break
    except KeyboardInterrupt:
        return


class _Keys:
    """Keys, read one by one, and signals: changes of the terminal's size and SIGTERM."""

    def __enter__(self) -> Self:
        self.ended = False
        self._wake, self._woken = os.pipe()
        for end in (self._wake, self._woken):
            os.set_blocking(end, False)
        signal.signal(signal.SIGWINCH, lambda *_: None)  # without a handler the signal would not wake `select`
        signal.signal(signal.SIGTERM, lambda *_: self._end())
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        self._before = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
        if self._before is not None:
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)
        signal.set_wakeup_fd(-1)
        os.close(self._wake)
        os.close(self._woken)

    def wait(self, seconds: float) -> bool:
        """Wait for a key or a signal; returns False after `seconds` without one."""
        watched = [self._wake] if self._before is None else [self._wake, sys.stdin.fileno()]
        ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
        if self._wake in ready:
            os.read(self._wake, 4096)
        if sys.stdin.fileno() in ready:
            typed = os.read(sys.stdin.fileno(), 4096)
            if not typed or b"q" in typed.lower():  # no bytes: the terminal is closed
                self._end()
        return bool(ready)

    def _end(self) -> None:
        self.ended = True


def _ask(options: argparse.Namespace) -> Replies:
    timelines = ask_all(options.admin, f"/timeline?seconds={POLICIES_S}")
    return timelines, ask_all(options.admin, f"/policies?window={POLICIES_S}s")


def _as_json(timelines: Sequence[SidecarReply], policies: Sequence[SidecarReply]) -> dict[str, object]:
    contents = [reply.content for reply in timelines]
    overviews = [each["state"]["overview"] for each in contents if each]
    return {
        "totals": asdict(totals_of_overviews(overviews)),
        "policies_window_s": POLICIES_S,
        "policies": [asdict(each) for each in policy_figures((reply.content for reply in policies), contents)],
        "refused": refused_keys(contents)[:MOST_KEYS],
        "sidecars": {reply.name: reply.fault or reply.content["state"] for reply in timelines},
    }
