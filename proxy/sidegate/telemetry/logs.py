"""Log lines: one JSON object per line on stdout or, if stdout is a terminal, text for people."""

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import orjson

from sidegate.config import LogSettings
from sidegate.telemetry.escaping import terminal_safe
from sidegate.telemetry.log_writer import LineWriter

LineFormat = Callable[[Mapping[str, object]], bytes]

_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
# Members that a line of text does not repeat by name.
_LEADING = ("level", "event", "logger", "trace")


class StructuredHandler(logging.Handler):
    """Writes the standard library's log records; the dict of `extra={"fields": {…}}` becomes members of the line."""

    def __init__(self, log: "LogLines") -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: Mapping[str, object] = getattr(record, "fields", {})
        line = {"level": record.levelname.lower(), "event": record.getMessage(), "logger": record.name, **fields}
        if record.exc_info:
            line["trace"] = (self.formatter or logging.Formatter()).formatException(record.exc_info)
        self._log.write(line)


class LogLines:
    """Formats lines and passes them to the writer. `text`: for people, instead of JSON."""

    def __init__(self, writer: LineWriter, *, text: bool) -> None:
        self.writer = writer
        self._format: LineFormat = text_line if text else json_line

    def write(self, members: Mapping[str, object]) -> None:
        """Write one line, with the current time."""
        self.writer.write(self._format(members))

    def close(self) -> None:
        """Write what is queued and end the writer's thread."""
        self.writer.close()


def json_line(members: Mapping[str, object]) -> bytes:
    """One JSON object with its time. orjson escapes control characters, so no value can begin another line."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return orjson.dumps({"time": time, **members}, default=str, option=orjson.OPT_APPEND_NEWLINE)


def text_line(members: Mapping[str, object]) -> bytes:
    """One line for a terminal: local time, level, event, `name=value`. A trace follows on lines of its own."""
    level, time = str(members.get("level", "info")), datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
    values = [f"{name}={_value(value)}" for name, value in members.items() if name not in _LEADING]
    event = terminal_safe(str(members.get("event", "")))
    line = f"{time} {_COLOURS.get(level, '')}{level:<7}{chr(27) + '[0m' if level in _COLOURS else ''} {event}"
    trace = str(members.get("trace", ""))
    safe_trace = "\n".join(terminal_safe(each) for each in trace.splitlines())
    return (" ".join([line, *values]) + (f"\n{safe_trace}" if trace else "") + "\n").encode("utf-8", "backslashreplace")


def _value(value: object) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
    text = terminal_safe(text)
    return orjson.dumps(text).decode() if isinstance(value, str) and (" " in text or not text) else text


def start_logging(settings: LogSettings) -> LogLines:
    """Send all log records of this process to stdout."""
    log = LogLines(LineWriter(sys.stdout.fileno()), text=sys.stdout.isatty())
    root = logging.getLogger()
    root.handlers[:] = [StructuredHandler(log)]
    root.setLevel(settings.level.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    return log
