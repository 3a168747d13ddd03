"""Prints and follows log files, also across rotation."""

import os
import sys
import time
from pathlib import Path
from typing import TextIO

from deploy.terminal import foreground, paint

_COLOURS = ("cyan", "yellow", "green")
_POLL_EVERY_S = 0.2
_MAX_TAIL_BYTES = 256 * 1024


def show(files: dict[str, Path], lines: int, *, follow: bool) -> None:
    """Print the last `lines` of each file, with its name in front if there are several; then follow until Ctrl-C."""
    width = max(map(len, files)) if len(files) > 1 else 0
    marks = {
        name: paint(f"{name:<{width}} | ", _COLOURS[index % len(_COLOURS)]) if width else ""
        for index, name in enumerate(files)
    }
    logs = [_Log(path, marks[name]) for name, path in files.items()]
    for log in logs:
        log.print_tail(lines)
    if not follow:
        return
    with foreground():
        try:
            while True:
                for log in logs:
                    log.print_new_lines()
                sys.stdout.flush()
                time.sleep(_POLL_EVERY_S)
        except KeyboardInterrupt:
            print()


class _Log:
    def __init__(self, path: Path, mark: str) -> None:
        self._path, self._mark = path, mark
        self._file: TextIO | None = None

    def print_tail(self, lines: int) -> None:
        self._open()
        if not self._file:
            return
        size = os.fstat(self._file.fileno()).st_size
        self._file.seek(max(0, size - _MAX_TAIL_BYTES))
        for line in self._file.read().splitlines()[-lines:] if lines else []:
            print(self._mark + line)

    def print_new_lines(self) -> None:
        self._open()
        if self._file:
            for line in self._file:
                print(self._mark + line.rstrip("\n"))
        if self._file and self._rotated():
            self._file.close()
            self._file = None

    def _open(self) -> None:
        if self._file is None and self._path.exists():
            self._file = self._path.open(errors="replace")

    def _rotated(self) -> bool:
        assert self._file is not None
        try:
            now = self._path.stat()
        except OSError:
            return True
        held = os.fstat(self._file.fileno())
        return now.st_ino != held.st_ino or now.st_size < self._file.tell()
