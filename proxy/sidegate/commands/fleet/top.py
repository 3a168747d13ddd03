"""`sidegate top`: what is limited, live in a terminal, over all sidecars."""

import argparse
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.live import Live

from sidegate.commands.fleet.sidecars import Reply, ask_all
from sidegate.commands.fleet.top_screen import MOST_KEYS, Room, screen
from sidegate.commands.fleet.traffic import traffic_of
from sidegate.commands.output import complain, write_json, write_text

SHOWN_S = 60


def run(options: argparse.Namespace) -> int:
    """Show it until interrupted, or once; returns 1 where no sidecar answers."""
    if options.once or options.json:
        replies = _ask(options)
        if options.json:
            write_json(_as_json(replies))
        else:
            write_text(screen(replies, None))
        for reply in replies:
            if reply.fault:
                complain(f"{reply.name}: {reply.fault}")
        return 0 if any(not reply.fault for reply in replies) else 1
    if not sys.stdout.isatty():
        complain("top needs a terminal; use --once or --json")
        return 2
    _follow(options)
    return 0


def _follow(options: argparse.Namespace) -> None:
    """Until `q`, Ctrl-C or SIGTERM. The terminal is left as it was found."""
    console = Console(markup=False, highlight=False, emoji=False)
    try:
        with _Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
            while not keys.ended:
                replies = _ask(options)
                until_s = time.monotonic() + options.interval
                while not keys.ended:
                    live.update(screen(replies, Room(console.width, console.height)), refresh=True)
                    if not keys.wait(until_s - time.monotonic()):
                        break
    except KeyboardInterrupt:
        return


class _Keys:
    """What is typed, without waiting for the end of a line, and changes of the terminal's size."""

    def __enter__(self) -> Self:
        self.ended = False
        self._wake, self._woken = os.pipe()
        for end in (self._wake, self._woken):
            os.set_blocking(end, False)
        signal.signal(signal.SIGWINCH, lambda *_: None)  # to be woken, it takes a handler
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
        """Wait for a key or a signal; returns whether any came in time."""
        heard = [self._wake] if self._before is None else [self._wake, sys.stdin.fileno()]
        ready, _, _ = select.select(heard, [], [], max(0.0, seconds))
        if self._wake in ready:
            os.read(self._wake, 4096)
        if sys.stdin.fileno() in ready:
            typed = os.read(sys.stdin.fileno(), 4096)
            if not typed or b"q" in typed.lower():  # nothing: the terminal has gone
                self._end()
        return bool(ready)

    def _end(self) -> None:
        self.ended = True


def _ask(options: argparse.Namespace) -> list[Reply]:
    return ask_all(options.admin, f"/timeline?seconds={SHOWN_S}")


def _as_json(replies: Sequence[Reply]) -> dict[str, object]:
    traffic = traffic_of([reply.content for reply in replies])
    return {
        "seconds": traffic.seconds,
        "policies": {name: dict(traffic.outcomes[name]) for name in traffic.policies()},
        "refused": traffic.refused_keys[:MOST_KEYS],
        "sidecars": {reply.name: reply.fault or reply.content["state"] for reply in replies},
    }
