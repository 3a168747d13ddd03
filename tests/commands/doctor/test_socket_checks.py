"""`sidegate doctor` with `listen.socket`, and with an application on a Unix socket."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from sidegate.commands.doctor.diagnosis import Diagnosis, DiagnosisState
from sidegate.commands.doctor.host_checks import check_application
from sidegate.commands.doctor.socket_checks import check_listening_socket
from sidegate.config import parse

Check = Callable[..., list[Diagnosis]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A short path: that of a socket has at most 107 bytes."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    return folder


@pytest.fixture
def check(folder: Path) -> Check:
    def run(name: str = "s", mode: str = "660", *, runs_here: bool = False) -> list[Diagnosis]:
        text = f"listen: {{socket: {folder / name}, socket_mode: '{mode}'}}\npolicies: []\n"
        return list(check_listening_socket(parse(text, "test", {}).listen, runs_here=runs_here))

    return run


def test_a_socket_in_a_folder_of_this_user_is_well(check: Check, folder: Path) -> None:
    (found,) = check()
    assert (found.state, found.text) == (DiagnosisState.OK, f"{folder / 's'} can be created")


def test_a_missing_folder_and_a_file_in_its_place_are_failures(check: Check, folder: Path) -> None:
    (missing,) = check("gone/s")
    assert (missing.state, missing.text.endswith("No such file or directory")) == (DiagnosisState.FAILURE, True)
    (folder / "file").touch()
    (found,) = check("file/s")
    assert (found.state, found.text.endswith("/file is not a folder")) == (DiagnosisState.FAILURE, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every folder")
def test_a_folder_of_another_user_is_a_failure(check: Check, folder: Path) -> None:
    folder.chmod(0o555)
    (found,) = check()
    assert (found.state, "may not create files" in found.text) == (DiagnosisState.FAILURE, True)


def test_a_file_that_is_no_socket_is_a_failure(check: Check, folder: Path) -> None:
    (folder / "s").touch()
    (found,) = check()
    assert (found.state, found.text.endswith("exists and is no socket")) == (DiagnosisState.FAILURE, True)


def test_a_stale_socket_is_well_and_one_in_use_is_not(check: Check, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s"))
        server.listen()
        (used,) = check()
        (own,) = check(runs_here=True)
    (stale,) = check()
    assert [each.state.value for each in (used, own, stale)] == ["fail", "ok", "ok"]
    assert own.text.endswith("is used by a running sidecar")
    assert stale.text.endswith("the sidecar replaces it")


@pytest.mark.parametrize(
    ("mode", "folder_mode", "warned"),
    [
        ("660", 0o750, []),
        ("660", 0o700, ["the group"]),
        ("666", 0o700, ["the group", "other users"]),
        ("666", 0o711, []),
        ("600", 0o700, []),
        ("600", 0o777, ["every user may replace"]),
        ("600", 0o1777, []),
    ],
)
def test_modes_of_socket_and_folder_that_do_not_fit_are_warned_of(
    check: Check, folder: Path, mode: str, folder_mode: int, warned: list[str]
) -> None:
    folder.chmod(folder_mode)
    texts = [each.text for each in check(mode=mode) if each.state is DiagnosisState.WARNING]
    assert len(texts) == len(warned)
    assert all(part in text for part, text in zip(warned, texts, strict=True)), texts


def test_an_application_on_a_unix_socket_is_checked(folder: Path) -> None:
    settings = parse(f"upstream: {{url: 'unix:{folder / 'a'}'}}\npolicies: []\n", "test", {})
    (missing,) = check_application(settings)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "a"))
        (refused,) = check_application(settings)
        server.listen()
        (well,) = check_application(settings)
    assert [each.state.value for each in (missing, refused, well)] == ["fail", "fail", "ok"]
    assert missing.text == f"unix:{folder / 'a'}: No such file or directory"
    assert refused.text.endswith("Connection refused")
