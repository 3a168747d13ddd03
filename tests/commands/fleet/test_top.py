"""`sidegate top` in a terminal: fits its size, follows changes of the size, restores the terminal at the end."""

import json
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
from sidegate.commands.fleet.fitted_table import Room
from sidegate.commands.fleet.sidecars import SidecarReply
from sidegate.commands.fleet.top_screen import screen

from tests.raw_client import get
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer
from tests.sidecar import ROOT, Sidecar, configuration

LONG = "a-policy-with-a-name-that-takes-much-room"
POLICIES: list[dict[str, object]] = [
    {"name": name, "match": {"path": [f"/{name}/**"]}, "key": "header:X-User-ID", "limit": "1/day", "burst": 3}
    for name in ("users", LONG)
]


def replies(policies: int = 2) -> tuple[list[SidecarReply], list[SidecarReply]]:
    names = [LONG, *(f"policy-{number}" for number in range(1, policies))]
    quantiles = {"p50": 1.5, "p99": 250.0}
    overview = {
        "requests_per_s": 512.3,
        "refused_share": 0.2,
        "responses": {"2xx": 0.795, "4xx": 0.0, "429": 0.2, "5xx": 0.005},
        "latency_ms": {"total": quantiles, "application": quantiles, "store": quantiles},
        "in_flight": 3,
        "application": {"state": "failing", "reason": "x", "since": "2026-01-01T00:00:00Z"},
        "store": {"state": "up", "reason": None, "since": "2026-01-01T00:00:00Z"},
        "config": {"hash": "0123456789ab", "status": "ok", "loaded": "2026-01-01T00:00:00Z"},
        "problem": None,
        "problems": [],
    }
    refused = [{"policy": LONG, "key": "k" * 300, "bucket": "b", "count": 7, "error": 2}]
    second = {"policies": {name: {"allowed": 5, "refused": 1} for name in names}}
    content = {"seconds": [second] * 60, "state": {"overview": overview, "refused": refused}}
    recent = {"matched": 360, "refused": 60, "shadow_refused": 0}
    listed = [
        {
            "name": name,
            "shadow": False,
            "exempt": False,
            "removed": False,
            "limit_text": "10/minute, burst 15",
            "recent": recent,
        }
        for name in names
    ]
    gone = SidecarReply("http://127.0.0.1:9082", 0, {}, "no answer: [Errno 111] Connection refused")
    first = "http://127.0.0.1:9081"
    return [SidecarReply(first, 200, content, ""), gone], [SidecarReply(first, 200, {"policies": listed}, ""), gone]


def drawn(room: Room | None, policies: int = 2) -> list[str]:
    console = Console(width=room.columns if room else 400, markup=False, highlight=False, emoji=False)
    with console.capture() as capture:
        console.print(screen(*replies(policies), room))
    return capture.get().splitlines()


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_each_row_of_a_table_is_one_line_on_every_width_with_whole_numbers(columns: int) -> None:
    lines = drawn(Room(columns, 30))
    assert all(len(line) <= columns for line in lines)
    rows = [line for line in lines if line.startswith("127.0.0.1:9081")]
    assert len(rows) == 1
    assert all(word in rows[0] for word in ("512.3", "80 %", "20 %", "0.5 %", "failing", "up"))
    assert any("360" in line and "60" in line and "17 %" in line and line.startswith("a-policy") for line in lines)
    assert any("5-7" in line for line in lines)
    assert any("no answer" in line for line in lines)
    assert ("configuration" in lines[0]) == (columns >= 120)
    assert ("p99" in lines[0]) == (columns >= 80)
    assert any(line.startswith("total") for line in lines)


def test_without_a_bound_of_rows_every_policy_is_listed_within_the_width() -> None:
    lines = drawn(Room(80), policies=50)
    assert all(len(line) <= 80 for line in lines)
    assert sum(line.startswith("policy-") for line in lines) == 49
    assert not any("q quits" in line for line in lines)


def test_many_policies_leave_room_for_keys() -> None:
    lines = drawn(Room(80, 24), policies=50)
    assert len(lines) <= 24
    assert any("and 42 more" in line for line in lines)
    assert any("kkk" in line for line in lines)
    assert sum(line.startswith("policy-") for line in drawn(None, policies=50)) == 49, "a pipe gets all of them"


def test_problems_that_sidecars_share_are_one_sentence_and_removed_policies_are_marked() -> None:
    (first, _), documents = replies()
    other = first._replace(url="http://127.0.0.1:9083", content=json.loads(json.dumps(first.content)))
    for reply, second, place in ((first, 20, "9001"), (other, 10, "9003")):
        state = reply.content["state"]
        state["refused"][0]["policy"] = "gone"
        common = {"since": f"2026-01-01T00:00:{second}Z", "runbook": "/runbook#x"}
        state["overview"]["problems"] = [
            {"text": f"The application is down ({place}).", **common},
            {"text": "The store is not connected.", **common},
        ]
    console = Console(width=400)
    with console.capture() as capture:
        console.print(screen([first, other], documents, None))
    lines = capture.get().splitlines()
    (shared,) = [line.rstrip() for line in lines if "store is not connected" in line]
    assert shared.startswith("127.0.0.1:9081, 127.0.0.1:9083: The store")
    assert shared.endswith(":10. Runbook: http://127.0.0.1:9083/runbook#x"), "since the first of them"
    assert len([line for line in lines if "application is down" in line]) == 2
    assert any("gone (removed)" in line for line in lines)


def test_a_pipe_gets_everything_in_full() -> None:
    assert "k" * 300 in "".join(line for line in drawn(None) if "k" * 20 in line)


# -- in a pseudo terminal ---------------------------------------------------------------------------------------------


class Terminal:
    """`sidegate top` in a pseudo terminal of a given size, and its output."""

    def __init__(self, sidecar: Sidecar, rows: int, columns: int, *flags: str) -> None:
        self.ours, self._theirs = pty.openpty()
        self.resize(rows, columns)
        self.modes = termios.tcgetattr(self._theirs)
        self.written = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sidegate", "top", "--admin", f"http://127.0.0.1:{sidecar.admin_port}", *flags],
            stdin=self._theirs, stdout=self._theirs, stderr=subprocess.STDOUT, cwd=ROOT,
            # These two would describe another terminal.
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
        """Wait for its end; returns its whole output."""

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
def test_top_follows_a_change_of_the_terminals_size(terminal: Terminal) -> None:
    terminal.wait_for(_shows_all(100), "a screen of 100 columns")
    terminal.resize(20, 50)
    terminal.process.send_signal(signal.SIGWINCH)  # as the terminal does
    terminal.wait_for(_shows_all(50), "a screen of 50 columns")


@pytest.mark.slow
def test_one_screen_on_a_narrow_terminal_is_as_wide_as_that(sidecar: Sidecar) -> None:
    terminal = Terminal(sidecar, 24, 80, "--once")
    try:
        lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.ended().decode()).splitlines()
    finally:
        terminal.close()
    assert all(len(line) <= 80 for line in lines)
    assert sum(line.startswith("127.0.0.1:") for line in lines) == 1, "one line for the sidecar"
    assert any("alice" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["q", "interrupt", "terminate"])
def test_the_terminal_is_restored_however_top_ends(terminal: Terminal, way: str) -> None:
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
def test_an_unknown_key_changes_nothing(terminal: Terminal) -> None:
    terminal.wait_for(_shows_all(100), "a screen")
    os.write(terminal.ours, b"x\x1b[A")
    time.sleep(0.3)
    assert terminal.process.poll() is None
    terminal.wait_for(_shows_all(100), "the same screen")
