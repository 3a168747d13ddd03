"""`sidegate check` and `sidegate schema`, as commands."""

import json
from pathlib import Path

import pytest
from sidegate.cli import main
from sidegate.commands.excerpt import excerpt
from sidegate.config import ConfigFault
from sidegate.config.schema import json_schema

LOCAL = "listen: {host: 127.0.0.1}\n"
VALID = f"policies: [{{name: a, key: client_ip, limit: 1/s}}]\n{LOCAL}"
WARNED = f"policies: [{{name: a, key: client_ip, limit: 1/s, initial: 9}}]\n{LOCAL}"
INVALID = "policies: [{name: a, key: client_ip, limit: 1/min}]\nlog: {level: loud}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.yaml"


def test_valid_configuration_is_reported_as_valid(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(VALID)
    assert main(["check", str(file)]) == 0
    assert capsys.readouterr() == (f"{file}: valid, 1 policy\n", "")


def test_configuration_with_a_warning_is_valid(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(WARNED)
    assert main(["check", str(file)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{file}: valid, 1 policy, 1 warning\n"
    assert err == (
        f"{file}:1:59: warning: policies[0].initial: 9 is more than a bucket holds; a new one starts with 1, its burst\n"
    )


def test_strict_check_treats_a_warning_as_a_fault(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(WARNED)
    assert main(["check", "--strict", str(file)]) == 1
    assert capsys.readouterr().out == ""


def test_all_faults_are_reported_at_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(INVALID)
    assert main(["check", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.removeprefix(str(file))[:7] for line in err.splitlines()] == [":1:45: ", ":2:14: "]


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["check", "--frobnicate"])
    assert left.value.code == 2
    assert "usage: sidegate" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "status"), [(VALID, 0), (WARNED, 0), (INVALID, 1)])
def test_json_report_has_the_same_faults_and_warnings(
    file: Path, text: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(text)
    assert main(["check", "--json", str(file)]) == status
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert err == ""
    assert document["valid"] is (status == 0)
    assert [(fault["line"], fault["column"], fault["path"]) for fault in document["faults"] + document["warnings"]] == {
        VALID: [],
        WARNED: [(1, 59, "policies[0].initial")],
        INVALID: [(1, 45, "policies[0].limit"), (2, 14, "log.level")],
    }[text]


def test_missing_file_is_a_fault_without_a_position(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", str(file)]) == 1
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert (fault["line"], fault["message"]) == (None, "does not exist; sidegate init writes a configuration")


def test_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


# -- the excerpt shown on terminals ---------------------------------------------------------------------


def marked(file: Path, text: str, line: int, column: int) -> str:
    file.write_text(text)
    return excerpt(ConfigFault(str(file), line, column, "", ""))


def test_excerpt_marks_the_column_of_the_fault(file: Path) -> None:
    assert marked(file, "log:\n  level: loud\n", 2, 10) == "     2 |   level: loud\n       |          ^"


@pytest.mark.parametrize(
    "text", ["store: {password: [1]}", "admin: {token: x}", "url: redis://:secret@host", "", " \n"]
)
def test_blank_lines_and_lines_that_may_contain_a_secret_are_not_shown(file: Path, text: str) -> None:
    assert marked(file, text, 1, 1) == ""


def test_excerpt_escapes_control_characters(file: Path) -> None:
    assert "\x1b" not in marked(file, "a: \x1b[2J", 1, 1)
