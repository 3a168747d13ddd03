"""`sidegate simulate`: replays an access log through one configuration, or through two to compare them."""

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

from sidegate.commands.output import complain, complain_of, write_json
from sidegate.commands.rich_output import write_text
from sidegate.commands.simulate.log_reader import LogReader
from sidegate.commands.simulate.replay import Replay
from sidegate.commands.simulate.report_json import as_json
from sidegate.commands.simulate.report_text import as_text
from sidegate.config import ConfigError, Settings, compile_policies, load
from sidegate.config.builtin_routes import builtin_routes

# The progress bar is updated once in so many requests.
_PROGRESS_STEP = 2_000
_STDIN = "-"


class Simulation(NamedTuple):
    """A log that was read, and one replay for each configuration; `names` are those of their files."""

    log_name: str
    reader: LogReader
    names: tuple[str, ...]
    replays: tuple[Replay, ...]


def simulate(options: argparse.Namespace) -> int:
    """Replay a log and print the report.

    Returns 1 if a configuration is invalid, or if the log cannot be read to its end or contains no request.
    """
    names = [options.config] if options.against is None else [options.config, options.against]
    try:
        configurations = [load(Path(name), os.environ) for name in names]
        with _opened(options.log) as stream:
            simulation = _replayed(stream, configurations, options)
    except ConfigError as error:
        complain_of(error)
        return 1
    except OSError as error:
        complain(f"{options.log}: {error.strerror or error}")
        return 1
    return _report(simulation, options)


def _replayed(stream: BinaryIO, configurations: list[Settings], options: argparse.Namespace) -> Simulation:
    names = (options.config, options.against)[: len(configurations)]
    replays = tuple(Replay(compile_policies(settings), builtin_routes(settings)) for settings in configurations)
    with _progress(_size(stream)) as (on_read, on_lines), _rare_garbage_collection():
        reader = LogReader(stream, options.format, on_read)
        try:
            for number, request in enumerate(reader.requests()):
                for replay in replays:
                    replay.take(request)
                if number % _PROGRESS_STEP == 0:
                    on_lines(reader.lines)
        except KeyboardInterrupt:  # the way to end `tail -f access.log | sidegate simulate config.yaml -`
            reader.ended_early = "interrupted"
    return Simulation(options.log, reader, names, replays)


def _report(simulation: Simulation, options: argparse.Namespace) -> int:
    reader = simulation.reader
    name = "standard input" if simulation.log_name == _STDIN else simulation.log_name
    if reader.ended_early:
        complain(f"{name} was read only up to line {reader.lines}: {reader.ended_early}")
    if not reader.request_count:
        complain(f"{name} contains no request that can be replayed ({reader.lines} lines)")
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
    """Return the input's size in bytes; None for a pipe."""
    try:
        return os.fstat(stream.fileno()).st_size or None
    except (OSError, ValueError):
        return None


@contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Raise the thresholds of the garbage collector: a replay creates no cycles, but 10 % of it was spent on them."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _progress(size: int | None) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Yield two callbacks: bytes read since the last call, lines read so far. The bar is shown on a terminal only."""
    terminal = sys.stderr.isatty()
    console = Console(stderr=True, force_terminal=terminal)
    bar = Progress(
        BarColumn(), TextColumn("{task.fields[lines]:,} lines"), TimeRemainingColumn(),
        console=console, transient=True, disable=not terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task("replay", total=size, lines=0)
        yield (lambda count: bar.advance(task, count)), (lambda lines: bar.update(task, lines=lines))
