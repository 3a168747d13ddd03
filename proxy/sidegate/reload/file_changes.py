"""Decides when watched files are to be read again.

Files are polled ten times a second by identity, size and time: that takes microseconds, and detects every kind of
change, also those that file notifications miss (network and virtual file systems, bind mounts, a replaced symbolic link
above it, as Kubernetes swaps them for a ConfigMap). A replaced file is read once two polls in a row agree; a file that
is written in place once it has not changed for a second, so that no half of it is applied. See docs/adr/0006.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from sidegate.config.file_signature import FileSignature, signature

LOOK_EVERY_S = 0.1
# Longer than an editor or a copy pauses between two writes.
STILL_S = 1.0


# None: the file does not exist, or cannot be read.
Signatures = Mapping[Path, FileSignature | None]


class FileChanges:
    """Decides when files that belong together are complete after a change of any of them."""

    def __init__(self, taken: Signatures, still_s: float = STILL_S) -> None:
        self._taken = self._seen = taken
        self._still_s = still_s
        self._since_s = 0.0
        self._written: set[Path] = set()  # changed in place, or created anew: a part of the content may be missing

    @property
    def taken(self) -> Signatures:
        """The files as they were read last."""
        return self._taken

    def take(self, signatures: Signatures) -> None:
        """Nothing is due until the files differ from these. Files may be added and left out."""
        self._taken = signatures

    def is_due(self, found: Signatures, now_s: float) -> bool:
        """Whether the files are to be read, by their signatures at one poll."""
        if found != self._seen:
            for path, after in found.items():
                before = self._seen.get(path)
                # A file that replaces another one by a rename has its content.
                if before and after and after.size and after.file != before.file:
                    self._written.discard(path)
                elif after != before:
                    self._written.add(path)
            self._seen, self._since_s = found, now_s
            return False
        if self._seen == self._taken:
            self._written.clear()
            return False
        return not self._written or now_s - self._since_s >= self._still_s


def signatures(paths: Iterable[Path]) -> Signatures:
    """The present signatures of files."""
    return {path: signature(path) for path in paths}
