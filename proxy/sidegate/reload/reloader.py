"""Applies edits of the configuration file, and of the pages that it names, to the running sidecar."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from sidegate.config import ConfigError, ConfigSource, Settings, compile_policies, digest, load_edit
from sidegate.config.changes import changes, restart_needed
from sidegate.config.file_signature import NamedFiles, signature
from sidegate.decision.policy import PolicySet
from sidegate.decision.reading import Reading
from sidegate.reload.file_changes import LOOK_EVERY_S, FileChanges, signatures

# Changes that one log line lists.
MOST_CHANGES = 50

logger = logging.getLogger(__name__)


class Stale(NamedTuple):
    """A refused edit: since when (ISO 8601, UTC), and all its faults."""

    since: str
    faults: tuple[str, ...]


class _Edit(NamedTuple):
    """An edit ready to be applied, and the log fields that describe it."""

    settings: Settings
    policies: PolicySet
    changes: Mapping[str, object]
    needing_restart: Sequence[str]


# Applies new settings and their compiled policies. Runs in the event loop, between two requests.
Apply = Callable[[Settings, PolicySet], None]


class Reloader:
    """Watches a configuration file and the pages that it names. `apply` puts new settings in force.

    `stale` describes the last edit if it was refused.

    `results` counts the edits: taken, or refused. `needing_restart` names changed settings that wait for a restart.
    """

    def __init__(self, source: ConfigSource, settings: Settings, apply: Apply) -> None:
        self._source = source
        self._started_with = settings
        self._settings = settings
        self._apply = apply
        self._files = FileChanges(signatures([source.path, *_pages(source, settings)]))
        self._busy = asyncio.Lock()
        self.stale: Stale | None = None
        self.results = {"taken": 0, "refused": 0}
        self.needing_restart: tuple[str, ...] = ()
        self.loaded_at = _now()

    @property
    def settings(self) -> Settings:
        """The settings in force, except for those that need a restart."""
        return self._settings

    def about(self) -> dict[str, object]:
        """State of the configuration for health pages and the admin API: `status` ok or stale, times, faults, and
        settings that wait for a restart, if there are any."""
        waiting = {"needs_restart": self.needing_restart} if self.needing_restart else {}
        if self.stale is None:
            return {"status": "ok", "loaded": self.loaded_at, **waiting}
        since, faults = self.stale
        return {"status": "stale", "since": since, "loaded": self.loaded_at, "faults": faults, **waiting}

    def readings(self) -> Iterator[Reading]:
        """Metrics of edits of the configuration."""
        yield Reading("config_loaded_timestamp_seconds", "When the active configuration was read.", self._loaded_at_s)
        yield Reading("config_stale", "Whether the last edit was refused.", lambda: self.stale is not None)
        text = "Edits of the configuration, by result."
        yield Reading("config_reloads", text, lambda: self.results, label="result", is_counter=True)

    def _loaded_at_s(self) -> float:
        return datetime.fromisoformat(self.loaded_at).timestamp()

    async def watch(self) -> None:
        """Reload whenever a file has changed. Runs until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._files.is_due(signatures(self._files.taken), asyncio.get_running_loop().time()):
                await self.reload()

    async def reload(self) -> None:
        """Read the file and apply it. If it has faults, log them once and keep the settings in force."""
        async with self._busy:
            named: NamedFiles = {}
            own = {self._source.path: signature(self._source.path)}
            try:
                # In a thread: checking and compiling 10,000 overrides takes a third of a second, while decisions of
                # other requests must end within 50 ms.
                edit = await asyncio.to_thread(self._read, named)
            except ConfigError as error:
                # Also a page that is missing may be added later.
                self._files.take({**signatures(self._files.taken), **named, **own})
                self.stale = Stale(self.stale.since if self.stale else _now(), tuple(map(str, error.faults)))
                self.results["refused"] += 1
                logger.error("config_refused", extra={"fields": {"faults": self.stale.faults}})  # noqa: TRY400
                return
            self._files.take({**named, **own})
            self._settings = edit.settings
            self._apply(edit.settings, edit.policies)
            self.stale, self.loaded_at = None, _now()
            self.results["taken"] += 1
            self.needing_restart = tuple(restart_needed(self._started_with, edit.settings))
            logger.info("config_reloaded", extra={"fields": edit.changes})
            if edit.needing_restart:
                logger.warning("config_needs_restart", extra={"fields": {"settings": edit.needing_restart}})

    def _read(self, named: NamedFiles) -> _Edit:
        before, settings = self._settings, load_edit(self._source, self._settings, named)
        fields = {"hash": digest(settings), **dict(_buckets_affected(before, settings))}
        fields["changes"] = [each.text for each in changes(before, settings)][:MOST_CHANGES]
        return _Edit(settings, compile_policies(settings), fields, restart_needed(before, settings))


def _pages(source: ConfigSource, settings: Settings) -> Iterator[Path]:
    """The files of `responses.pages`."""
    for pages in settings.responses.pages.values():
        for page in pages:
            if page is not None:
                yield source.path.parent / page.file


def _buckets_affected(before: Settings, after: Settings) -> Iterator[tuple[str, object]]:
    """What an edit changed in the policies. A policy with a new name starts with new buckets, also a renamed one."""
    old = {policy.name: policy for policy in before.policies}
    new = {policy.name: policy for policy in after.policies}
    yield "policies", len(new)
    yield "changed", [name for name in new if name in old and old[name] != new[name]]
    yield "gone", [name for name in old if name not in new]
    yield "new_with_new_buckets", [name for name in new if name not in old]
    if before.store.key_prefix != after.store.key_prefix:
        yield "all_buckets_new", after.store.key_prefix


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
