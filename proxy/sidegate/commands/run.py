"""`sidegate run`: runs the sidecar, in one process or with worker processes, until SIGTERM."""

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

from sidegate.commands.output import complain, complain_of
from sidegate.commands.setting_flags import given_flags
from sidegate.config import ConfigError, ConfigSource, load
from sidegate.workers.place import place_in, worker_count

_EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


def run(options: argparse.Namespace) -> int:
    """Run it. Returns 1 if it cannot start."""
    source = ConfigSource(Path(options.config), os.environ, given_flags(options))
    try:
        settings = load(source.path, source.environ, source.flags)
    except ConfigError as error:
        complain_of(error)
        return 1
    if settings.tracing.endpoint and not _can_trace():
        complain("cannot start: tracing needs more packages: pip install 'sidegate[otel]'")
        return 1
    place = place_in(os.environ)
    try:
        if place is None and (count := worker_count(settings.listen.workers)) > 1:
            from sidegate.workers.parent import supervise  # noqa: PLC0415  (one process does not need it)

            return supervise(settings, source, count)
        from sidegate.app import run as run_app  # noqa: PLC0415  (the parent of workers does not need it)

        run_app(settings, source, place)
    except OSError as error:
        complain(f"cannot start: {error}")
        return 1
    return 0


def _can_trace() -> bool:
    try:
        return find_spec("opentelemetry.sdk.trace") is not None and find_spec(_EXPORTER) is not None
    except ModuleNotFoundError:
        return False
