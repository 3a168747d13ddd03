"""The log: one JSON object a line on stdout, written by a thread of its own so that a slow reader never stops the
proxy.

Requests are logged from their records. A refused bucket is logged when it is first refused, and from then on once a
second with a count for as long as refusals go on, so that a flood of refusals is no flood of lines.
"""

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import orjson

from sidegate.config import LogSettings
from sidegate.decision.policy import PolicySet
from sidegate.decision.record import Record
from sidegate.decision.request import path_part
from sidegate.decision.verdict import Answer, DecisionSource, Verdict
from sidegate.telemetry.outcomes import policy_outcomes, refused_buckets

# What POSIX lets several processes write to one pipe without mixing their lines (PIPE_BUF, on Linux).
LARGEST_WRITE_BYTES = 4096
# Lines waiting for a slow reader of stdout; what does not fit is dropped and counted.
MOST_WAITING_LINES = 20_000
# Buckets whose refusals are counted apart within one second; those beyond share one line.
MOST_FOLDED = 1_000
# What a log line may hold of a request. The query is left out: it may hold what nobody should read in a log.
LONGEST_PATH_CHARS = 512
LONGEST_METHOD_CHARS = 32

_PASS, _STORE_FAILURE = Answer.PASS, DecisionSource.STORE_FAILURE

# What a request is called that passes only because nobody could check it (`on_failure: allow`), and many of them.
_UNCHECKED = "passed_unchecked"
_AGAIN = {_UNCHECKED: "passed_again"}


def pieces(lines: Iterable[bytes], most_bytes: int) -> Iterator[bytes]:
    """The lines in order, joined to pieces of at most `most_bytes`; a longer line is a piece of its own."""
    joined: list[bytes] = []
    size = 0
    for line in lines:
        if joined and size + len(line) > most_bytes:
            yield b"".join(joined)
            joined, size = [], 0
        joined.append(line)
        size += len(line)
    if joined:
        yield b"".join(joined)


class LineWriter:
    """Writes lines to a file descriptor from a thread. `written` and `dropped` count them: with room, without."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self.dropped = 0
        self.written = 0
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue a line, without waiting."""
        if len(self._lines) >= MOST_WAITING_LINES:
            self.dropped += 1
            return
        self._lines.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued, for at most `timeout_s`."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            taken = [self._lines.popleft() for _ in range(len(self._lines))]
            try:
                for piece in pieces(taken, LARGEST_WRITE_BYTES):
                    self._write_all(piece)
                self.written += len(taken)
            except OSError:  # nobody reads any more; the proxy goes on without its log
                self.dropped += len(taken)
            if self._closing and not self._lines:
                return

    def _write_all(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._descriptor, data) :]


class JsonHandler(logging.Handler):
    """Formats the standard library's log records; what is given as `extra={"fields": {…}}` becomes members."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        fields: Mapping[str, object] = getattr(record, "fields", {})
        line = {"level": record.levelname.lower(), "event": record.getMessage(), "logger": record.name, **fields}
        if record.exc_info:
            line["trace"] = (self.formatter or logging.Formatter()).formatException(record.exc_info)
        self._writer.write(json_line(line))


def json_line(members: Mapping[str, object]) -> bytes:
    """One line with its time. orjson escapes control characters, so nothing in a value can begin another line."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return orjson.dumps({"time": time, **members}, default=str, option=orjson.OPT_APPEND_NEWLINE)


def start_logging(settings: LogSettings) -> LineWriter:
    """Send everything that is logged in this process to stdout as JSON."""
    writer = LineWriter(sys.stdout.fileno())
    root = logging.getLogger()
    root.handlers[:] = [JsonHandler(writer)]
    root.setLevel(settings.level.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    return writer


class RequestLog:
    """Logs requests as `log.requests` says. `policies` gives those in force."""

    def __init__(self, settings: LogSettings, writer: LineWriter, policies: Callable[[], PolicySet]) -> None:
        self.wanted = settings.requests  # none, refused or all; may be changed
        self._writer = writer
        self._policies = policies
        self._folded: dict[str, int] = {}

    def note(self, record: Record, refused: Sequence[tuple[str, str]] = ()) -> None:
        """Log the record, fold it, or pass over it. `refused`: what refused it (see outcomes.refused_buckets)."""
        wanted, verdict = self.wanted, record.verdict
        if wanted == "all":
            self._write(record)
        elif wanted == "refused" and (
            record.error or (verdict is not None and (verdict.answer is not _PASS or _unchecked(verdict)))
        ):
            self._fold(record, refused)

    def each_second(self) -> None:
        """Write what was folded in the second that has passed."""
        folded, self._folded = self._folded, {}
        for subject, count in folded.items():
            if count:
                self._folded[subject] = 0  # goes on being folded for as long as it goes on
                self._writer.write(
                    json_line(
                        {
                            "level": "info",
                            "event": _AGAIN.get(subject, "refused_again"),
                            "subject": subject,
                            "count": count,
                        }
                    )
                )

    def _fold(self, record: Record, refused: Sequence[tuple[str, str]]) -> None:
        subject = _subject(record, refused)
        folded = self._folded
        count = folded.get(subject)
        if count is None and len(folded) >= MOST_FOLDED:
            subject = "others"
            count = folded.get(subject)
        if count is None:
            folded[subject] = 0
            self._write(record)
        else:
            folded[subject] = count + 1

    def _write(self, record: Record) -> None:
        facts, verdict = record.facts, record.verdict
        policies = self._policies()
        line: dict[str, object] = {
            "level": "info",
            "event": _event(verdict),
            "client": policies.identity.client_group(facts),
            "method": facts.method[:LONGEST_METHOD_CHARS],
            "path": printable(path_part(facts.target)[:LONGEST_PATH_CHARS]),
            "status": record.status,
            "decision_ms": round(record.decision_s * 1000, 3),
            "total_ms": round(record.total_s * 1000, 3),
        }
        if record.request_id:
            line["request_id"] = record.request_id
        if record.error:
            line["error"] = record.error
        if verdict is not None and verdict.applied:
            line |= self._verdict_fields(record, verdict, policies)
        self._writer.write(json_line(line))

    def _verdict_fields(self, record: Record, verdict: Verdict, policies: PolicySet) -> dict[str, object]:
        fields: dict[str, object] = {
            "decided_by": verdict.decided_by.value,
            "policies": dict(policy_outcomes(verdict)),
            "buckets": [applied.charge.key for applied in verdict.applied if applied.charge],
        }
        if verdict.reason:
            fields["store_failure"] = verdict.reason
        if verdict.answer is Answer.REFUSE:
            fields["refused_buckets"] = [bucket for _, bucket in refused_buckets(record, policies)]
            if verdict.retry_us is not None:
                fields["retry_after_s"] = round(verdict.retry_us / 1e6, 3)
        return fields


def _subject(record: Record, refused: Sequence[tuple[str, str]]) -> str:
    """What the refusals of a flood have in common: the first refusing bucket, or the fault."""
    if record.error:
        return record.error
    if record.verdict is not None and _unchecked(record.verdict):
        return _UNCHECKED
    return refused[0][1] or refused[0][0] if refused else "others"


def _event(verdict: Verdict | None) -> str:
    if verdict is None or verdict.answer is not Answer.REFUSE:
        return _UNCHECKED if verdict and _unchecked(verdict) else "request"
    return "refused"


def _unchecked(verdict: Verdict) -> bool:
    """Whether a request passes only because the store does not answer and nothing else checks it."""
    return verdict.decided_by is _STORE_FAILURE and verdict.answer is _PASS


def printable(text: str) -> str:
    """The text with bytes that are no UTF-8 as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
