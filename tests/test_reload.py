"""Edits of the configuration: applied ones, refused ones, and their log lines."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sidegate.config import ConfigSource, Settings, digest, load
from sidegate.config.changes import restart_needed
from sidegate.config.file_signature import FileSignature
from sidegate.reload.file_changes import STILL_S, FileChanges, Signatures
from sidegate.reload.reloader import Reloader

ONE = "policies: [{name: a, key: client_ip, limit: 1/s}]\n"
TWO = "policies: [{name: b, key: client_ip, limit: 2/s}]\n"
PATIENCE_S = 30.0


@asynccontextmanager
async def watched(file: Path) -> AsyncIterator[tuple[Reloader, list[Settings]]]:
    """A reloader that watches the file, and what it has taken over so far."""
    taken: list[Settings] = []
    reloader = Reloader(ConfigSource(file, {}, {}), load(file, {}), lambda settings, _: taken.append(settings))
    task = asyncio.get_running_loop().create_task(reloader.watch())
    try:
        yield reloader, taken
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


def write(file: Path, text: str) -> None:
    file.write_text(text)


def replace(file: Path, text: str) -> None:
    new = file.with_name("new")
    new.write_text(text)
    new.replace(file)


@pytest.mark.slow
@pytest.mark.parametrize("edit", [write, replace])
async def test_an_edit_is_applied_however_the_editor_saves(tmp_path: Path, edit: Callable[[Path, str], None]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(ONE)
    async with watched(file) as (_, taken):
        edit(file, TWO + "# edited\n")
        await until(lambda: taken)
        assert [policy.name for policy in taken[-1].policies] == ["b"]


@pytest.mark.slow
async def test_a_swapped_symbolic_link_above_the_file_is_an_edit(tmp_path: Path) -> None:
    for name, text in (("one", ONE), ("two", TWO)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    (tmp_path / "data").symlink_to("one")
    (tmp_path / "config.yaml").symlink_to("data/config.yaml")
    async with watched(tmp_path / "config.yaml") as (_, taken):
        (tmp_path / "data_tmp").symlink_to("two")
        (tmp_path / "data_tmp").replace(tmp_path / "data")
        await until(lambda: taken)
        assert [policy.name for policy in taken[-1].policies] == ["b"]


@pytest.mark.slow
async def test_an_invalid_edit_changes_nothing_and_is_logged_once_with_all_its_faults(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(ONE)
    async with watched(file) as (reloader, taken):
        file.write_text("policies: 3\nlog: 4\n")
        await until(lambda: reloader.stale)
        await asyncio.sleep(0.5)
        assert not taken
        assert reloader.stale is not None
        assert len(reloader.stale.faults) == 2
        assert [record.getMessage() for record in caplog.records] == ["config_refused"]
        file.write_text(TWO)
        await until(lambda: taken)
        assert reloader.stale is None


@pytest.mark.slow
async def test_a_file_that_is_gone_for_a_moment_is_no_edit_until_it_is_back(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(ONE)
    async with watched(file) as (reloader, taken):
        file.unlink()
        await until(lambda: reloader.stale)
        file.write_text(TWO)
        await until(lambda: taken)
        assert reloader.stale is None


async def test_a_reload_can_be_requested_for_a_file_that_looks_the_same(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(ONE)
    taken: list[Settings] = []
    reloader = Reloader(ConfigSource(file, {}, {}), load(file, {}), lambda settings, _: taken.append(settings))
    times = file.stat()
    file.write_text(TWO)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    await reloader.reload()
    assert [policy.name for policy in taken[-1].policies] == ["b"]


async def test_an_edit_logs_changed_policies_and_policies_with_new_buckets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(ONE)
    reloader = Reloader(ConfigSource(file, {}, {}), load(file, {}), lambda *_: None)
    file.write_text(TWO + "listen: {port: 81}\n")
    with caplog.at_level(logging.INFO):
        await reloader.reload()
    logged = {record.getMessage(): getattr(record, "fields", None) for record in caplog.records}
    reloaded = dict(logged["config_reloaded"] or {})
    assert reloaded.pop("hash") == digest(reloader.settings)
    assert reloaded == {
        "policies": 1,
        "changed": [],
        "gone": ["a"],
        "new_with_new_buckets": ["b"],
        "changes": [
            "listen.port: 8080 → 81; takes effect at the next start",
            "policy a is removed; requests under it lose this limit",
            "policy b is new: 2/second for each client_ip; its buckets start new",
        ],
    }
    assert (reloader.results, reloader.needing_restart) == ({"taken": 1, "refused": 0}, ("listen.port",))
    assert logged["config_needs_restart"] == {"settings": ["listen.port"]}


def test_limits_need_no_restart_and_addresses_do(tmp_path: Path) -> None:
    def settings(text: str) -> Settings:
        file = tmp_path / "config.yaml"
        file.write_text(text)
        return load(file, {})

    before = settings(ONE)
    assert list(restart_needed(before, settings(TWO + "log: {requests: all}\nstore: {on_failure: allow}\n"))) == []
    after = settings(
        TWO + "store: {timeout: 20ms, url: 'redis://h'}\nupstream: {url: 'http://h:1'}\nadmin: {port: 1}\n"
    )
    assert list(restart_needed(before, after)) == ["admin.port", "upstream.url", "store.url", "store.timeout"]


# -- files that are emptied, cut off, or still being written -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty; expected settings"),
        ("# only a comment\n", "is empty; expected settings"),
        ("listen: {port: 8080}\n", "has no policies, while policies are active"),
        (f"{ONE}listen:\n  idle_timeout: 7", "ends inside a value"),
        (f"{ONE}log:\n  level: info", "ends inside a value"),
    ],
)
async def test_an_emptied_or_cut_off_file_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(ONE)
    taken: list[Settings] = []
    reloader = Reloader(ConfigSource(file, {}, {}), load(file, {}), lambda settings, _: taken.append(settings))
    file.write_text(text.replace("idle_timeout: 7", "idle_timeout: 7s"))
    await reloader.reload()
    assert not taken
    assert reloader.stale is not None
    assert reason in reloader.stale.faults[0]
    assert [policy.name for policy in reloader.settings.policies] == ["a"]


@pytest.mark.parametrize("text", ["policies: []\n", "policies: []", f"{TWO}log: {{level: info}}"])
async def test_an_edit_that_is_complete_is_applied(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(ONE)
    taken: list[Settings] = []
    reloader = Reloader(ConfigSource(file, {}, {}), load(file, {}), lambda settings, _: taken.append(settings))
    file.write_text(text)
    await reloader.reload()
    assert len(taken) == 1


def signature(inode: int, size: int) -> Signatures:
    return {Path("a"): FileSignature((1, inode), size, 0)}


def test_a_file_written_in_place_is_read_once_it_has_not_changed_for_a_second() -> None:
    changes = FileChanges(signature(1, 100))
    assert not changes.is_due(signature(1, 0), 10.0)
    assert not changes.is_due(signature(1, 50), 10.5)
    assert not changes.is_due(signature(1, 50), 10.5 + STILL_S - 0.01)
    assert changes.is_due(signature(1, 50), 10.5 + STILL_S)


def test_a_file_replaced_by_a_rename_is_read_at_the_second_poll() -> None:
    changes = FileChanges(signature(1, 100))
    assert not changes.is_due(signature(2, 90), 10.0)
    assert changes.is_due(signature(2, 90), 10.1)
    changes.take(signature(2, 90))
    assert not changes.is_due(signature(2, 90), 10.2)


def test_a_file_that_is_created_anew_is_read_once_it_has_not_changed_for_a_second() -> None:
    changes = FileChanges(signature(1, 100))
    assert not changes.is_due({Path("a"): None}, 10.0)
    assert not changes.is_due(signature(2, 40), 10.1)
    assert not changes.is_due(signature(2, 40), 10.2)
    assert changes.is_due(signature(2, 40), 10.1 + STILL_S)


def test_files_that_belong_together_are_read_once_all_of_them_have_not_changed_for_a_second() -> None:
    one, two = Path("one"), Path("two")
    before, written, replaced = (FileSignature((1, inode), 10, time) for inode, time in ((1, 0), (1, 1), (2, 1)))
    changes = FileChanges({one: before, two: before})
    assert not changes.is_due({one: written, two: before}, 10.0)
    assert not changes.is_due({one: written, two: replaced}, 10.5)
    assert not changes.is_due({one: written, two: replaced}, 10.6), "the first one may lack its end"
    assert changes.is_due({one: written, two: replaced}, 10.5 + STILL_S)
    changes.take({one: written, two: replaced})
    assert not changes.is_due({one: written, two: replaced}, 12.0)
    assert not changes.is_due({one: replaced, two: replaced}, 13.0)
    assert changes.is_due({one: replaced, two: replaced}, 13.1), "a replaced file is whole"


def paged(page: str) -> str:
    return f"{ONE}responses: {{pages: {{429: {{html: {page}}}}}}}\n"


def page_of(settings: Settings) -> str:
    page = settings.responses.pages[429].html
    return page.text if page is not None else ""


@pytest.mark.slow
@pytest.mark.parametrize("edit", [write, replace])
async def test_an_edit_of_a_page_alone_is_applied(tmp_path: Path, edit: Callable[[Path, str], None]) -> None:
    file, page = tmp_path / "config.yaml", tmp_path / "429.html"
    page.write_text("old")
    file.write_text(paged("429.html"))
    async with watched(file) as (reloader, taken):
        edit(page, "new {policies}")
        await until(lambda: taken)
        assert page_of(taken[-1]) == "new {policies}"
        edit(page, "{unknown}")
        await until(lambda: reloader.stale)
        assert page_of(reloader.settings) == "new {policies}"
        edit(page, "mended")
        await until(lambda: reloader.stale is None)
        assert page_of(taken[-1]) == "mended"


@pytest.mark.slow
async def test_a_page_that_is_added_after_the_configuration_names_it_is_applied(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(ONE)
    async with watched(file) as (reloader, taken):
        replace(file, paged("429.html"))
        await until(lambda: reloader.stale)
        (tmp_path / "429.html").write_text("late")
        await until(lambda: taken)
        assert page_of(taken[-1]) == "late"
        replace(file, ONE)
        await until(lambda: len(taken) == 2)
        (tmp_path / "429.html").write_text("of no use")
        (tmp_path / "other").write_text("")
        replace(file, TWO)
        await until(lambda: len(taken) == 3)
        assert reloader.results == {"taken": 3, "refused": 1}
