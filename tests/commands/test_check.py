"""`sidegate check` and `sidegate schema`, as commands."""

import json
from pathlib import Path

import pytest
from sidegate.cli import main
from sidegate.commands.excerpt import excerpt
from sidegate.config import ConfigFault
from sidegate.config.schema import json_schema

RIGHT = "policies: [{name: a, key: client_ip, limit: 1/s}]\n"
WARNED = "policies: [{name: a, key: client_ip, limit: 1/s, initial: 9}]\n"
WRONG = "policies: [{name: a, key: client_ip, limit: 1/min}]\nlog: {level: loud}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.yaml"


def test_a_right_configuration_is_said_to_be_right(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(RIGHT)
    assert main(["check", str(file)]) == 0
    assert capsys.readouterr() == (f"{file}: right, 1 policy\n", "")


def test_a_warning_is_said_and_leaves_a_configuration_right(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(WARNED)
    assert main(["check", str(file)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{file}: right, 1 policy, 1 warning\n"
    assert err == (
        f"{file}:1:59: warning: policies[0].initial: 9 is more than a bucket holds; a new one starts with 1, its burst\n"
    )


def test_who_is_strict_takes_a_warning_for_a_fault(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(WARNED)
    assert main(["check", "--strict", str(file)]) == 1
    assert capsys.readouterr().out == ""


def test_every_fault_is_said_at_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(WRONG)
    assert main(["check", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.removeprefix(str(file))[:7] for line in err.splitlines()] == [":1:45: ", ":2:14: "]


def test_misuse_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["check", "--frobnicate"])
    assert left.value.code == 2
    assert "usage: sidegate" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "status"), [(RIGHT, 0), (WARNED, 0), (WRONG, 1)])
def test_json_tells_the_same(file: Path, text: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(text)
    assert main(["check", "--json", str(file)]) == status
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert err == ""
    assert told["right"] is (status == 0)
    assert [(fault["line"], fault["column"], fault["path"]) for fault in told["faults"] + told["warnings"]] == {
        RIGHT: [],
        WARNED: [(1, 59, "policies[0].initial")],
        WRONG: [(1, 45, "policies[0].limit"), (2, 14, "log.level")],
    }[text]


def test_a_file_that_is_not_there_is_a_fault_without_a_place(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", str(file)]) == 1
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert (fault["line"], fault["message"]) == (None, "cannot be read: No such file or directory")


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


# -- what people at a terminal see beside a fault ---------------------------------------------------------------------


def marked(file: Path, text: str, line: int, column: int) -> str:
    file.write_text(text)
    return excerpt(ConfigFault(str(file), line, column, "", ""))


def test_a_fault_is_shown_in_its_line_with_a_mark(file: Path) -> None:
    assert marked(file, "log:\n  level: loud\n", 2, 10) == "     2 |   level: loud\n       |          ^"


@pytest.mark.parametrize(
    "text", ["store: {password: [1]}", "admin: {token: x}", "url: redis://:secret@host", "", " \n"]
)
def test_a_line_that_may_hold_a_secret_or_nothing_is_not_shown(file: Path, text: str) -> None:
    assert marked(file, text, 1, 1) == ""


def test_a_line_cannot_command_the_terminal(file: Path) -> None:
    assert "\x1b" not in marked(file, "a: \x1b[2J", 1, 1)
