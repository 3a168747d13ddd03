"""Reads an access log as a stream of requests, and counts what it finds: formats, skipped lines, times out of order."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO, NamedTuple

from sidegate.commands.simulate.log_bytes import LONGEST_LINE_BYTES, BrokenInput, lines_of
from sidegate.commands.simulate.log_format import LogFormat
from sidegate.commands.simulate.log_json import JsonLine, json_request, parsed_line, wrapped_line
from sidegate.commands.simulate.log_prefix import without_prefixes, without_timestamp
from sidegate.commands.simulate.log_text import text_request
from sidegate.commands.simulate.logged_request import BadLine, LoggedRequest, is_address

# Number of skipped lines that are shown, and characters of each.
MOST_SHOWN = 5
_LONGEST_SHOWN = 80
# Names of header fields found. JSON lines may contain any number of them, so it needs a bound.
_MOST_FIELD_NAMES = 1024


class SkippedLine(NamedTuple):
    """A skipped line: its number, counted from 1, the reason, and its beginning (printable ASCII)."""

    number: int
    reason: str
    beginning: str

    def __str__(self) -> str:
        return f"line {self.number}: {self.reason}: {self.beginning}"


class LogReader:
    """Reads one log once. The attributes hold the counts so far; `prefixed` counts lines with a known prefix."""

    def __init__(self, stream: BinaryIO, form: LogFormat, on_read: Callable[[int], None]) -> None:
        self._lines = partial(lines_of, stream, on_read)
        self._form = form
        self.lines = 0
        self.request_count = 0
        self.formats: Counter[str] = Counter()
        self.prefixed = 0
        self.bad: Counter[str] = Counter()
        self.first_bad: list[SkippedLine] = []
        self.out_of_order = self.zone_unknown = self.client_unknown = 0
        self.fields: set[str] = set()
        self.first_us = self.last_us = 0
        self.ended_early = ""

    def requests(self) -> Iterator[LoggedRequest]:
        """Yield the requests in the order of the lines. Raises nothing for bad content: see `bad`, `ended_early`."""
        try:
            for line in self._lines():
                self.lines += 1
                try:
                    request = self._request(line)
                except BadLine as error:
                    self._note_bad(str(error), line or b"")
                    continue
                if request is not None:
                    self._note(request)
                    yield request
        except BrokenInput as error:
            self.ended_early = str(error)

    def _request(self, line: bytes | None) -> LoggedRequest | None:
        if line is None:
            raise BadLine(f"longer than {LONGEST_LINE_BYTES // 1024} KiB")
        line = line.strip()
        if not line:
            return None
        if line.startswith(b"{") and self._form in (LogFormat.AUTO, LogFormat.JSON):
            return self._json(parsed_line(line))
        text = line.decode("utf-8", "surrogateescape")
        bare = without_prefixes(text)
        try:
            request = self._bare(bare)
        except BadLine:
            later = without_timestamp(bare)
            if later == bare:
                raise
            request = self._bare(later)
            bare = later
        self.prefixed += bare is not text
        return request

    def _bare(self, text: str) -> LoggedRequest:
        if self._form is LogFormat.JSON or (self._form is LogFormat.AUTO and text.startswith("{")):
            return self._json(parsed_line(text.encode("utf-8", "surrogateescape")))
        return text_request(text, self._form)

    def _json(self, line: JsonLine) -> LoggedRequest:
        wrapped = wrapped_line(line)
        if wrapped is None:
            return json_request(line)
        if not isinstance(wrapped, str):
            return json_request(wrapped)
        text = without_prefixes(wrapped.strip())
        if text.startswith("{"):
            return json_request({**line, **parsed_line(text.encode("utf-8", "surrogateescape"))})
        return text_request(text)

    def _note(self, request: LoggedRequest) -> None:
        self.request_count += 1
        self.formats[request.format.value] += 1
        now_us = request.time_us
        if now_us < self.last_us:
            self.out_of_order += 1
            self.first_us = min(self.first_us, now_us)
        else:
            self.last_us = now_us
            self.first_us = self.first_us or now_us
        self.zone_unknown += not request.zone_known
        self.client_unknown += not is_address(request.facts.peer)
        if len(self.fields) < _MOST_FIELD_NAMES:
            self.fields.update(request.fields.names())

    def _note_bad(self, reason: str, line: bytes) -> None:
        self.bad[reason] += 1
        if len(self.first_bad) < MOST_SHOWN:
            beginning = line[:_LONGEST_SHOWN].decode("ascii", "backslashreplace")
            shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in beginning)
            self.first_bad.append(SkippedLine(self.lines, reason, shown + ("…" if len(line) > _LONGEST_SHOWN else "")))
