"""`sidegate completion`: the scripts in real shells. A shell that is not installed is skipped."""

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.commands.command_line import ROOT, sidegate

# A line that was typed, and how its last word is completed.
CASES: Mapping[str, str] = {
    "sidegate ch": "check",
    "sidegate buckets sh": "show",
    "sidegate run --po": "--port",
    "sidegate buckets list --po": "--policy",
    "sidegate status --adm": "--admin",
    "sidegate completion zs": "zsh",
}
DEADLINE_S = 60.0


def installed(shell: str) -> str:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"no {shell}")
    return path


@pytest.mark.parametrize(("typed", "completed"), [*CASES.items(), ("sidegate run config.y", "")])
def test_bash_completes_words_and_leaves_files_to_the_shell(typed: str, completed: str) -> None:
    script = sidegate("completion", "bash").out
    ask = f'COMP_WORDS=({typed}); COMP_CWORD={len(typed.split()) - 1}; _sidegate; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        [installed("bash"), "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True, timeout=DEADLINE_S
    )
    assert done.stdout.strip() == completed


@pytest.mark.slow
def test_fish_completes_words_and_files() -> None:
    fish = installed("fish")
    asked = {**CASES, "sidegate check config.y": "config.yaml"}
    asks = "\n".join(f'complete -C "{typed}"; echo "-"' for typed in asked)
    script = sidegate("completion", "fish").out
    done = subprocess.run(
        [fish, "--no-config", "-c", f"{script}\n{asks}"],
        capture_output=True, text=True, check=True, timeout=DEADLINE_S, cwd=ROOT,
    )  # fmt: skip
    found = [answer.strip() for answer in done.stdout.split("\n-\n")[:-1]]
    assert [answer.partition("\t")[0] for answer in found] == list(asked.values())
    assert done.stderr == ""


@pytest.mark.slow
def test_zsh_without_its_own_configuration_completes_words_and_files(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(sidegate("completion", "zsh").out)
    with_files = {**CASES, "sidegate check config.y": "config.yaml"}
    for terminal in zsh_at_a_terminal(installed("zsh"), tmp_path):
        terminal.send(f'source {tmp_path / "script"}; echo lo""aded\n')
        assert "not found" not in terminal.read_until("loaded")
        for typed, completed in with_files.items():
            before, _, _ = typed.rpartition(" ")
            terminal.send(f"{typed}\t")
            terminal.read_until(f"{before} {completed} ")
            terminal.send("\x15")  # Ctrl-U removes the line


class Terminal:
    """The near end of a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def read_until(self, text: str) -> str:
        """Return what was written up to `text`; fails with it after a minute."""
        found, ends_s = "", time.monotonic() + DEADLINE_S
        while text not in found:
            left_s = ends_s - time.monotonic()
            assert left_s > 0, f"{text!r} was not written, but {found!r}"
            if select.select([self._descriptor], [], [], left_s)[0]:
                found += os.read(self._descriptor, 65536).decode(errors="replace")
        return found


def zsh_at_a_terminal(zsh: str, home: Path) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [zsh, "-f", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, start_new_session=True,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "dumb", "PS1": "% ", "LANG": "C.UTF-8"},
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(ours)
    finally:
        process.kill()
        process.wait(10)
        os.close(ours)


def test_every_script_has_every_command() -> None:
    for shell in ("bash", "zsh", "fish"):
        done = sidegate("completion", shell)
        assert done.status == 0
        assert all(word in done.out for word in ("run", "init", "doctor", "diff", "tail", "buckets", "admin"))
