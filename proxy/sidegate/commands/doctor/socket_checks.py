"""Checks of `listen.socket`: its folder, its file, its permissions."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from sidegate.commands.doctor.diagnosis import Diagnosis, failure, ok, warning
from sidegate.config import ListenSettings

_PART = "socket"
# Who may connect: the permission on the socket, the permission to enter its folder.
_OTHERS = (("the group", 0o020, 0o010), ("other users", 0o002, 0o001))


def check_listening_socket(settings: ListenSettings, *, runs_here: bool) -> Iterator[Diagnosis]:
    """Whether the socket can be made. `runs_here`: a sidecar of this configuration is running."""
    if settings.socket is None:
        return
    path = Path(settings.socket)
    try:
        folder = path.parent.stat()
    except OSError as error:
        yield failure(
            _PART, f"{path}: the folder {path.parent}: {error.strerror}", "create it, or change listen.socket"
        )
        return
    if not stat.S_ISDIR(folder.st_mode):
        yield failure(_PART, f"{path}: {path.parent} is not a folder", "change listen.socket")
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        text = f"{path}: this user may not create files in {path.parent} (mode {folder.st_mode & 0o7777:03o})"
        yield failure(_PART, text, "give the folder to the sidecar's user, or change listen.socket")
    else:
        yield _file(path, folder, runs_here=runs_here)
        yield from _folder(settings, path, folder)


def _file(path: Path, folder: os.stat_result, *, runs_here: bool) -> Diagnosis:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return ok(_PART, f"{path} can be created")
    if not stat.S_ISSOCK(found.st_mode):
        return failure(_PART, f"{path} exists and is no socket", "remove it, or change listen.socket")
    if _is_in_use(path):
        if runs_here:
            return ok(_PART, f"{path} is used by a running sidecar")
        return failure(_PART, f"{path} is used by another process", "stop it, or change listen.socket")
    if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, found.st_uid, folder.st_uid):
        text = f"{path} is left over from a process of user {found.st_uid}, and this user may not remove it"
        return failure(_PART, text, "remove it, or change listen.socket")
    return ok(_PART, f"{path} is left over from a process that ended; the sidecar replaces it")


def _folder(settings: ListenSettings, path: Path, folder: os.stat_result) -> Iterator[Diagnosis]:
    mode = folder.st_mode & 0o7777
    for who, may_write, may_enter in _OTHERS:
        if settings.socket_mode & may_write and not mode & may_enter:
            text = (
                f"listen.socket_mode {settings.socket_mode:03o} admits {who}, {path.parent} (mode {mode:03o}) does not"
            )
            yield warning(_PART, text, f"allow {who} to enter the folder (x), unless only this user connects")
    if mode & 0o002 and not mode & stat.S_ISVTX:
        text = f"every user may replace the socket: {path.parent} has mode {mode:03o}"
        yield warning(_PART, text, "use a folder that only the sidecar's user may write")


def _is_in_use(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True
