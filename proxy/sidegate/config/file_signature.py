"""The identity, size and time of a file, by which an edit of it is noticed."""

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import NamedTuple


class FileSignature(NamedTuple):
    """The identity, size and time of a file."""

    file: tuple[int, int]
    size: int
    modified_ns: int


# The files that a configuration names beside itself, as they were when they were read; None: it could not be read.
NamedFiles = MutableMapping[Path, FileSignature | None]


def signature(path: Path) -> FileSignature | None:
    """The signature of a file; None while it cannot be read, e.g. during its replacement."""
    try:
        return signature_of(path.stat())
    except OSError:
        return None


def signature_of(status: os.stat_result) -> FileSignature:
    """The signature of a file by its status."""
    return FileSignature((status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns)
