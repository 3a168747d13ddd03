"""Applies edits of the configuration file to the running sidecar.

Polls the file's identity, size and time ten times a second: that takes microseconds, and detects every kind of change,
also those that file notifications miss (network and virtual file systems, bind mounts, a replaced symbolic link above
it, as Kubernetes swaps them for a ConfigMap). A replaced file is read once two polls in a row agree; a file that is
written in place once it has not changed for a second, so that no half of it is applied. See docs/adr/0006.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from sidegate.config import ConfigError, ConfigSource, Settings, compile_policies, digest, load_edit
from sidegate.config.changes import changes, restart_needed
from sidegate.config.tls_settings import TlsSettings, client_context, renew, server_context
from sidegate.decision.policy import PolicySet
from sidegate.decision.reading import Reading

LOOK_EVERY_S = 0.1
# Longer than an editor or a copy pauses between two writes.
STILL_S = 1.0
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


class FileSignature(NamedTuple):
    """The identity, size and time of a file."""

    file: tuple[int, int]
    size: int
    modified_ns: int


class FileChanges:
    """Decides when a changed file is complete. `None` is the signature of a file that does not exist."""

    def __init__(self, signature: FileSignature | None) -> None:
        self._taken = self._seen = signature
        self._since_s = 0.0
        self._is_replaced = False

    def take(self, signature: FileSignature | None) -> None:
        """Nothing is due until the file differs from this."""
        self._taken = signature

    def is_due(self, signature: FileSignature | None, now_s: float) -> bool:
        """Whether the file is to be read, by its signature at one poll."""
        if signature != self._seen:
            # A file that replaces another one by a rename has its content; one that is created anew may not yet.
            before = self._seen
            self._is_replaced = bool(before and signature and signature.size and signature.file != before.file)
            self._seen, self._since_s = signature, now_s
            return False
        return self._seen != self._taken and (self._is_replaced or now_s - self._since_s >= STILL_S)


class Reloader:
    """Watches one file. `apply` puts new settings in force; `stale` describes the last edit if it was refused.

    `results` counts the edits: taken, or refused. `needing_restart` names changed settings that wait for a restart.
    """

    def __init__(self, source: ConfigSource, settings: Settings, apply: Apply) -> None:
        self._source = source
        self._started_with = settings
        self._settings = settings
        self._apply = apply
        self._file = FileChanges(_signature(source.path))
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
        """State of the configuration for health pages and the admin API: `status` ok or stale, times, faults."""
        if self.stale is None:
            return {"status": "ok", "loaded": self.loaded_at}
        since, faults = self.stale
        return {"status": "stale", "since": since, "loaded": self.loaded_at, "faults": faults}

    def readings(self) -> Iterator[Reading]:
        """Metrics of edits of the configuration."""
        yield Reading("config_loaded_timestamp_seconds", "When the active configuration was read.", self._loaded_at_s)
        yield Reading("config_stale", "Whether the last edit was refused.", lambda: self.stale is not None)
        text = "Edits of the configuration, by result."
        yield Reading("config_reloads", text, lambda: self.results, label="result", is_counter=True)

    def _loaded_at_s(self) -> float:
        return datetime.fromisoformat(self.loaded_at).timestamp()

    async def watch(self) -> None:
        """Reload whenever the file has changed. Runs until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._file.is_due(_signature(self._source.path), asyncio.get_running_loop().time()):
                await self.reload()

    async def reload(self) -> None:
        """Read the file and apply it. If it has faults, log them once and keep the settings in force."""
        async with self._busy:
            self._file.take(_signature(self._source.path))
            try:
                # In a thread: checking and compiling 10,000 overrides takes a third of a second, while decisions of
                # other requests must end within 50 ms.
                edit = await asyncio.to_thread(self._read)
            except ConfigError as error:
                self.stale = Stale(self.stale.since if self.stale else _now(), tuple(map(str, error.faults)))
                self.results["refused"] += 1
                logger.error("config_refused", extra={"fields": {"faults": self.stale.faults}})  # noqa: TRY400
                return
            self._settings = edit.settings
            self._apply(edit.settings, edit.policies)
            self.stale, self.loaded_at = None, _now()
            self.results["taken"] += 1
            self.needing_restart = tuple(restart_needed(self._started_with, edit.settings))
            logger.info("config_reloaded", extra={"fields": edit.changes})
            if edit.needing_restart:
                logger.warning("config_needs_restart", extra={"fields": {"settings": edit.needing_restart}})

    def _read(self) -> _Edit:
        before, settings = self._settings, load_edit(self._source, self._settings)
        fields = {"hash": digest(settings), **dict(_buckets_affected(before, settings))}
        fields["changes"] = [each.text for each in changes(before, settings)][:MOST_CHANGES]
        return _Edit(settings, compile_policies(settings), fields, restart_needed(before, settings))


class ListenerTls(NamedTuple):
    """The TLS contexts of the listeners for clients and for operators; None where TLS is off."""

    clients: ssl.SSLContext | None
    admin: ssl.SSLContext | None

    @classmethod
    def of(cls, settings: Settings) -> "ListenerTls":
        """Read the files. Raises OSError with the file that cannot be used."""
        return cls(server_context(settings.listen.tls), server_context(settings.admin.tls))


def upstream_context(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context of connections to the application; None for http. Raises OSError as above."""
    upstream = settings.upstream
    return client_context(upstream.ca_file, upstream.cert_file, upstream.key_file) if upstream.url.tls else None


def certificate_watches(settings: Settings, tls: ListenerTls) -> list[Coroutine[Any, Any, None]]:
    """Coroutines that renew the certificates of the listeners; each runs until cancelled."""
    pairs = ((tls.clients, settings.listen.tls), (tls.admin, settings.admin.tls))
    return [CertificateWatch(context, each).watch() for context, each in pairs if context is not None]


class CertificateWatch:
    """Renews the certificates of a listener when their files change.

    Both files of a pair are seldom replaced at the same moment: what does not fit together is tried again at each poll,
    and reported once it has stayed so for a second.
    """

    def __init__(self, context: ssl.SSLContext, settings: TlsSettings) -> None:
        self._context = context
        self._settings = settings
        self._loaded = self._signatures()

    async def watch(self) -> None:
        """Renew whenever a file has changed. Runs until cancelled."""
        loop, since_s, reported = asyncio.get_running_loop(), 0.0, None
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            found = self._signatures()
            if found == self._loaded:
                since_s = 0.0
                continue
            since_s = since_s or loop.time()
            try:
                renew(self._context, self._settings)
            except OSError as error:
                if loop.time() - since_s >= STILL_S and reported != found:
                    reported = found
                    logger.error("certificate_refused", extra={"fields": {"reason": error.strerror or str(error)}})  # noqa: TRY400
            else:
                self._loaded, since_s = found, 0.0
                logger.info("certificate_renewed", extra={"fields": {"file": self._settings.cert_file}})

    def _signatures(self) -> tuple[FileSignature | None, ...]:
        return tuple(_signature(Path(name)) for name in self._settings.files)


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


def _signature(path: Path) -> FileSignature | None:
    """The signature of a file; None while it cannot be read, e.g. during its replacement."""
    try:
        status = path.stat()
    except OSError:
        return None
    return FileSignature((status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
