"""Writes log lines to a file descriptor from a thread of its own, so that a slow reader never blocks the proxy."""

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator

from sidegate.decision.reading import Reading

# POSIX lets several processes write to one pipe without mixing their lines up to this size (PIPE_BUF, on Linux).
LARGEST_WRITE_BYTES = 4096
# Lines that wait for a slow reader of stdout; further lines are dropped and counted.
MOST_WAITING_LINES = 20_000


def pieces(lines: Iterable[bytes], most_bytes: int) -> Iterator[bytes]:
    """The lines in order, joined into pieces of at most `most_bytes`; a longer line is a piece of its own."""
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
    """Queues lines for its thread. `written` and `dropped` count the lines."""

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
        """Write the queued lines, waiting at most `timeout_s`."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s)

    def readings(self) -> Iterator[Reading]:
        """Counters of lines."""
        yield Reading("log_lines", "Log lines written.", lambda: self.written, is_counter=True)
        text = "Log lines dropped because the reader of stdout is too slow."
        yield Reading("log_lines_dropped", text, lambda: self.dropped, is_counter=True)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            taken = [self._lines.popleft() for _ in range(len(self._lines))]
            try:
                for piece in pieces(taken, LARGEST_WRITE_BYTES):
                    self._write_all(piece)
                self.written += len(taken)
            except OSError:  # stdout is closed; the proxy continues without its log
                self.dropped += len(taken)
            if self._closing and not self._lines:
                return

    def _write_all(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._descriptor, data) :]
