"""`sidegate simulate`: what a configuration would have done to an access log, beside another if wanted."""

import argparse
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from sidegate.commands.output import complain, write_json, write_text
from sidegate.commands.simulate.log_reader import LogReader
from sidegate.commands.simulate.replay import Replay
from sidegate.commands.simulate.report_json import as_json
from sidegate.commands.simulate.report_text import as_text
from sidegate.config import ConfigError, Settings, compile_policies, load
from sidegate.config.builtin_routes import builtin_routes

# How often the progress bar is told, in lines.
_LINES_A_STEP = 2_000
_STDIN = "-"


class Simulation(NamedTuple):
    """A log read to its end, and what each configuration made of it."""

    log_name: str
    reader: LogReader
    names: tuple[str, ...]
    replays: tuple[Replay, ...]


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Replay a log. Returns 1 where it or the other configuration cannot be read to its end, or holds no request."""
    configurations = [settings]
    try:
        if options.against is not None:
            configurations.append(load(Path(options.against), os.environ))
        with _opened(options.log) as stream:
            simulation = _replayed(stream, configurations, options)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        complain(f"{options.log}: {error.strerror or error}")
        return 1
    return _told(simulation, options)


def _replayed(stream: BinaryIO, configurations: list[Settings], options: argparse.Namespace) -> Simulation:
    names = (options.config, options.against)[: len(configurations)]
    replays = tuple(Replay(compile_policies(settings), builtin_routes(settings)) for settings in configurations)
    with _progress(_size(stream)) as (on_read, on_lines), _seldom_collecting():
        reader = LogReader(stream, options.format, on_read)
        try:
            for number, entry in enumerate(reader.entries()):
                for replay in replays:
                    replay.take(entry)
                if number % _LINES_A_STEP == 0:
                    on_lines(reader.lines)
        except KeyboardInterrupt:  # also the way to end `tail -f access.log | sidegate simulate config.yaml -`
            reader.ended_early = "it was interrupted"
    return Simulation(options.log, reader, names, replays)


def _told(simulation: Simulation, options: argparse.Namespace) -> int:
    reader = simulation.reader
    name = "standard input" if simulation.log_name == _STDIN else simulation.log_name
    if reader.ended_early:
        complain(f"{name} was read up to line {reader.lines} only: {reader.ended_early}")
    if not reader.requests:
        complain(f"{name} holds no request that can be replayed ({reader.lines} lines)")
        for line in reader.first_bad:
            complain(str(line))
        return 1
    pairs = list(zip(simulation.names, simulation.replays, strict=True))
    if options.json:
        write_json(as_json(name, reader, pairs))
    else:
        write_text(*as_text(name, reader, pairs))
    return 1 if reader.ended_early else 0


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == _STDIN:
        yield sys.stdin.buffer
        return
    with Path(name).open("rb") as stream:
        yield stream


def _size(stream: BinaryIO) -> int | None:
    """The input's size in bytes where it has one: pipes have none."""
    try:
        return os.fstat(stream.fileno()).st_size or None
    except (OSError, ValueError):
        return None


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """A replay makes many small objects and no cycles: looking for cycles at the usual pace costs it a tenth."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _progress(size: int | None) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Two callbacks: bytes read since the last call, lines read in all. Shown on a terminal only."""
    terminal = sys.stderr.isatty()
    console = Console(stderr=True, force_terminal=terminal)
    bar = Progress(
        BarColumn(), TextColumn("{task.fields[lines]:,} lines"), TimeRemainingColumn(),
        console=console, transient=True, disable=not terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task("replay", total=size, lines=0)
        yield (lambda count: bar.advance(task, count)), (lambda lines: bar.update(task, lines=lines))
