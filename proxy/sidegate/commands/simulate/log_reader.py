"""An access log as a stream of requests, and what was found on the way: bad lines, times out of order, where it
ended."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from sidegate.commands.simulate.log_bytes import LONGEST_LINE_BYTES, BrokenInput, lines_of
from sidegate.commands.simulate.log_entry import BadLine, Entry, Format, combined_entry, is_address
from sidegate.commands.simulate.log_json import json_entry

# The first bad lines are shown, so many and so much of each.
MOST_SHOWN = 5
_LONGEST_SHOWN = 80
# Names of header fields that were seen: bounded, since in JSON lines anybody may have chosen them.
_MOST_FIELD_NAMES = 1024


class ShownLine(NamedTuple):
    """A bad line: its number, counted from 1, why it is bad, and how it begins (printable ASCII)."""

    number: int
    reason: str
    beginning: str

    def __str__(self) -> str:
        return f"line {self.number} {self.reason}: {self.beginning}"


class LogReader:
    """Reads one log once. The attributes say what was found so far."""

    def __init__(self, stream: BinaryIO, form: Format, on_read: Callable[[int], None]) -> None:
        self._stream = stream
        self._form = form
        self._on_read = on_read
        self.lines = 0
        self.requests = 0
        self.bad: Counter[str] = Counter()
        self.first_bad: list[ShownLine] = []
        self.out_of_order = 0
        self.zone_unknown = 0
        self.client_unknown = 0
        self.fields: set[str] = set()
        self.first_us = self.last_us = 0
        self.ended_early = ""

    def entries(self) -> Iterator[Entry]:
        """The requests in the order of the lines. Never raises for what stands in the log: see `bad`, `ended_early`."""
        try:
            for line in lines_of(self._stream, self._on_read):
                self.lines += 1
                try:
                    entry = self._entry(line)
                except BadLine as error:
                    self._note_bad(str(error), line or b"")
                    continue
                if entry is not None:
                    self._note(entry)
                    yield entry
        except BrokenInput as error:
            self.ended_early = str(error)

    def _entry(self, line: bytes | None) -> Entry | None:
        if line is None:
            raise BadLine(f"is longer than {LONGEST_LINE_BYTES // 1024} KiB")
        line = line.strip()
        if not line:
            return None
        if self._form is Format.JSON or (self._form is Format.AUTO and line.startswith(b"{")):
            return json_entry(line)
        host_first = None if self._form is Format.AUTO else self._form is Format.VHOST
        return combined_entry(line.decode("utf-8", "surrogateescape"), host_first)

    def _note(self, entry: Entry) -> None:
        self.requests += 1
        now_us = entry.time_us
        if now_us < self.last_us:
            self.out_of_order += 1
            self.first_us = min(self.first_us, now_us)
        else:
            self.last_us = now_us
            self.first_us = self.first_us or now_us
        self.zone_unknown += not entry.zone_known
        self.client_unknown += not is_address(entry.facts.peer)
        if len(self.fields) < _MOST_FIELD_NAMES:
            self.fields.update(entry.fields.names())

    def _note_bad(self, reason: str, line: bytes) -> None:
        self.bad[reason] += 1
        if len(self.first_bad) < MOST_SHOWN:
            beginning = line[:_LONGEST_SHOWN].decode("ascii", "backslashreplace")
            shown = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in beginning)
            self.first_bad.append(ShownLine(self.lines, reason, shown + ("…" if len(line) > _LONGEST_SHOWN else "")))
