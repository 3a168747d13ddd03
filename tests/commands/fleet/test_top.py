"""`sidegate top` in a terminal: it fits its size, follows it, and leaves the terminal as it was."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.console import Console
from sidegate.commands.fleet.sidecars import Reply
from sidegate.commands.fleet.top_screen import Room, screen

from tests.raw_client import get
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer
from tests.sidecar import ROOT, Sidecar, configuration

LONG = "a-policy-with-a-name-that-takes-much-room"
POLICIES: list[dict[str, object]] = [
    {"name": name, "match": {"path": [f"/{name}/**"]}, "key": "header:X-User-ID", "limit": "1/day", "burst": 3}
    for name in ("users", LONG)
]


def replies(policies: int = 2) -> list[Reply]:
    names = [LONG, *(f"policy-{number}" for number in range(1, policies))]
    store = {"up": True, "reason": None, "breakers": [{"node": None, "state": "closed", "reason": None}]}
    refused = [{"policy": LONG, "key": "k" * 300, "bucket": "b", "count": 7, "error": 2}]
    state = {"store": store, "in_flight": 3, "config": {"hash": "0123456789ab", "status": "ok"}, "refused": refused}
    second = {"policies": {name: {"allowed": 5, "refused": 1} for name in names}, "store_calls": 5, "store_ms": 0.25}
    content = {"seconds": [second] * 60, "state": state}
    return [
        Reply("http://127.0.0.1:9081", 200, content, ""),
        Reply("http://127.0.0.1:9082", 0, {}, "no answer: [Errno 111] Connection refused"),
    ]


def drawn(room: Room | None, policies: int = 2) -> list[str]:
    console = Console(width=room.columns if room else 400, markup=False, highlight=False, emoji=False)
    with console.capture() as capture:
        console.print(screen(replies(policies), room))
    return capture.get().splitlines()


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 200])
def test_a_line_of_a_table_is_one_line_on_every_width_and_its_numbers_are_whole(columns: int) -> None:
    lines = drawn(Room(columns, 30))
    assert all(len(line) <= columns for line in lines)
    assert len(lines) == 12, "three tables of two, two and one, their titles, three gaps and the last line"
    assert any("5.0" in line and "1.0" in line and line.startswith("a-policy") for line in lines)
    assert any("5-7" in line for line in lines)
    assert any("no answer" in line for line in lines)
    assert ("configuration" in lines[0]) == (columns >= 80)


def test_many_policies_leave_room_for_the_keys() -> None:
    lines = drawn(Room(80, 24), policies=50)
    assert len(lines) <= 24
    assert any("and 42 more" in line for line in lines)
    assert any("kkk" in line for line in lines)
    assert sum(line.startswith("policy-") for line in drawn(None, policies=50)) == 49, "a pipe gets all of them"


def test_a_pipe_gets_what_does_not_fit_a_terminal() -> None:
    assert "k" * 300 in "".join(line for line in drawn(None) if "k" * 20 in line)


# -- in a pseudo terminal ---------------------------------------------------------------------------------------------


class Terminal:
    """`sidegate top` in a terminal of a size, and what it wrote."""

    def __init__(self, sidecar: Sidecar, rows: int, columns: int) -> None:
        self.ours, self._theirs = pty.openpty()
        self.resize(rows, columns)
        self.modes = termios.tcgetattr(self._theirs)
        self.written = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sidegate", "top", "--admin", f"http://127.0.0.1:{sidecar.admin_port}"],
            stdin=self._theirs, stdout=self._theirs, stderr=subprocess.STDOUT, cwd=ROOT,
            # Whoever sets these two speaks of another terminal.
            env={name: os.environ[name] for name in os.environ.keys() - {"COLUMNS", "LINES"}} | {"TERM": "xterm-256color"},
        )  # fmt: skip

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.ours, (rows, columns))

    def frame(self) -> list[str]:
        """The lines of the newest whole screen, without colours."""
        while select.select([self.ours], [], [], 0.02)[0]:
            self.written += os.read(self.ours, 65536)
        *_, shown, _ = [b"", b"", *self.written.split(b"\x1b[H")]
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode("utf-8", "replace")).splitlines()

    def wait_for(self, holds: Callable[[list[str]], Any], what: str) -> None:
        eventually(lambda: holds(self.frame()), what)

    def ended(self) -> bytes:
        """Wait for its end; returns all that it wrote."""

        def over() -> bool:
            self.frame()
            return self.process.poll() is not None

        eventually(over, "the end of top")
        return self.written

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        os.close(self.ours)
        os.close(self._theirs)

    @property
    def modes_now(self) -> list[Any]:
        return termios.tcgetattr(self._theirs)


@pytest.fixture
def sidecar(store_server: StoreServer) -> Iterator[Sidecar]:
    recorder = Recorder()
    with Sidecar(configuration(store_server.url, recorder.url, policies=POLICIES)) as running:
        for _ in range(5):
            get(running.port, "/users/a", "X-User-ID: alice")
            get(running.port, f"/{LONG}/a", "X-User-ID: bob")
        yield running
    recorder.stop()


@pytest.fixture
def terminal(sidecar: Sidecar) -> Iterator[Terminal]:
    terminal = Terminal(sidecar, 24, 100)
    yield terminal
    terminal.close()


def _shows_all(columns: int) -> Callable[[list[str]], Any]:
    def holds(frame: list[str]) -> bool:
        text = "\n".join(frame)
        return len(frame) > 3 and all(len(line) == columns for line in frame) and "alice" in text and "users" in text

    return holds


@pytest.mark.slow
def test_it_follows_the_terminals_size_at_once(terminal: Terminal) -> None:
    terminal.wait_for(_shows_all(100), "a screen of 100 columns")
    terminal.resize(20, 50)
    terminal.process.send_signal(signal.SIGWINCH)  # as the terminal does
    terminal.wait_for(_shows_all(50), "a screen of 50 columns")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["q", "interrupt", "terminate"])
def test_however_it_ends_the_terminal_is_left_as_it_was(terminal: Terminal, way: str) -> None:
    terminal.wait_for(_shows_all(100), "a screen")
    assert terminal.modes_now != terminal.modes, "keys are read one by one"
    match way:
        case "q":
            os.write(terminal.ours, b"q")
        case "interrupt":
            terminal.process.send_signal(signal.SIGINT)
        case _:
            terminal.process.send_signal(signal.SIGTERM)
    written = terminal.ended()
    assert terminal.process.returncode == 0
    assert written.startswith(b"\x1b[?1049h"), "a screen of its own"
    assert written.endswith(b"\x1b[?25h\x1b[?1049l"), "the cursor and the screen before it are back"
    assert b"Traceback" not in written
    assert terminal.modes_now == terminal.modes


@pytest.mark.slow
def test_a_key_that_means_nothing_changes_nothing(terminal: Terminal) -> None:
    terminal.wait_for(_shows_all(100), "a screen")
    os.write(terminal.ours, b"x\x1b[A")
    time.sleep(0.3)
    assert terminal.process.poll() is None
    terminal.wait_for(_shows_all(100), "the same screen")
