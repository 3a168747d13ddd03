"""`sidegate init` and `diff`, and suggestions for misspelt commands."""

import os
import pty
import subprocess
from pathlib import Path

import pytest
from sidegate.config import load

from tests.commands.command_line import COMMAND, environment, sidegate


def test_init_writes_a_valid_configuration_from_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = sidegate(
        *("init", "--upstream", "http://127.0.0.1:3000", "--redis", "redis://me:secret@store:6380/1", "--port", "81"),
        *("--path", "/api/**", "--key", "header:X-User-ID | client_ip", "--limit", "5/s", "--on-failure", "local"),
        *("--trusted-proxies", "10.0.0.0/8, 192.168.0.0/16"),
    )
    assert (done.status, done.err) == (0, "")
    assert "set REDIS_PASSWORD" in done.out
    text = Path("config.yaml").read_text()
    assert "secret" not in text
    settings = load(Path("config.yaml"), {"REDIS_PASSWORD": "secret"})
    (policy,) = settings.policies
    assert (settings.listen.port, str(settings.upstream.url)) == (81, "http://127.0.0.1:3000")
    assert (str(settings.store.url), settings.store.credentials) == ("redis://store:6380/1", ("me", "secret"))
    assert list(map(str, settings.client_ip.trusted_proxies)) == ["10.0.0.0/8", "192.168.0.0/16"]
    assert (policy.match.path, str(policy.key), str(policy.limit)) == (
        ("/api/**",),
        "header:X-User-ID | client_ip",
        "5/second",
    )
    assert settings.store.on_failure == "local"
    # The environment still counts where the file has a reference.
    assert load(Path("config.yaml"), {"PORT": "82"}).listen.port == 82


def test_init_keeps_an_existing_file_unless_forced(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("kept")
    assert sidegate("init", file).err == f"sidegate: {file} exists; --force replaces it\n"
    assert file.read_text() == "kept"
    assert sidegate("init", file, "--force").status == 0
    assert [each.name for each in load(file, {}).policies] == ["callers"]


def test_init_reports_all_wrong_answers_and_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    done = sidegate("init", file, "--limit", "5/x", "--port", "http", "--trusted-proxies", "here")
    assert done.status == 1
    assert [line.split(":")[1].strip() for line in done.err.splitlines()] == [
        "listen.port",
        "client_ip.trusted_proxies[0]",
        "policies[0].limit",
    ]
    assert not file.exists()


def test_init_names_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    done = sidegate("init", tmp_path / "no" / "c.yaml")
    assert (done.status, "cannot be written: No such file or directory" in done.err) == (1, True)


@pytest.mark.slow
def test_init_asks_on_a_terminal_again_after_a_wrong_answer(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "init", str(file), "--port", "81"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment()
    )
    os.close(theirs)
    # Application (wrong, then right), store, path, key, limit, failure, proxies.
    os.write(ours, b"app\nhttp://app:1\n\n/v1/**\nhost\n7/s\nallow\n\n")
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # Linux: the process has ended
        pass
    os.close(ours)
    assert process.wait(30) == 0, shown
    assert b"'app' is not an upstream" in shown
    settings = load(file, {})
    assert (str(settings.upstream.url), settings.listen.port, settings.store.on_failure) == (
        "http://app:1",
        81,
        "allow",
    )
    assert (settings.policies[0].match.path, str(settings.policies[0].limit)) == (("/v1/**",), "7/second")


def test_a_missing_configuration_names_init(tmp_path: Path) -> None:
    done = sidegate("run", "--config", tmp_path / "c.yaml")
    assert (done.status, done.err) == (1, f"{tmp_path}/c.yaml: does not exist; sidegate init writes a configuration\n")


def test_diff_prints_one_change_in_each_line(tmp_path: Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text("policies: [{name: a, key: client_ip, limit: 1/s}]\n")
    new.write_text("policies: [{name: a, key: client_ip, limit: 2/s}]\nadmin: {port: 1}\n")
    done = sidegate("diff", old, new)
    assert (done.status, done.out.splitlines()) == (
        0,
        ["admin.port: 9901 → 1; takes effect at the next start", "policy a: limit: 1/second → 2/second"],
    )
    assert sidegate("diff", old, old).out == "no setting changes\n"
    document = sidegate("diff", "--json", old, new).json
    assert [(each["path"], each["needs_restart"]) for each in document["changes"]] == [
        ("admin.port", True),
        ("policies.a", False),
    ]
    assert document["old"] != document["new"]


def test_diff_reports_the_faults_of_both_files(tmp_path: Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text("polices: []\n")
    done = sidegate("diff", old, new)
    assert done.status == 1
    assert [line.partition(": ")[0] for line in done.err.splitlines()] == [f"{old}:1:1", str(new)]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("chek",), "'chek' is not known; did you mean 'check'?"),
        (("buckets", "lst"), "'lst' is not known; did you mean 'list'?"),
        (("xyzzy",), "'xyzzy' is not known; expected one of run, "),
    ],
)
def test_a_misspelt_command_gets_a_suggestion(words: tuple[str, ...], hint: str) -> None:
    done = sidegate(*words)
    assert (done.status, hint in done.err) == (2, True)
