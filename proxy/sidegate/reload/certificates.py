"""The TLS contexts of a sidecar, which use certificates that are replaced on disk without a restart."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidegate.config import Settings
from sidegate.config.tls_settings import TlsFiles, client_context, server_context
from sidegate.reload.file_changes import LOOK_EVERY_S, FileChanges, Signatures, signatures

logger = logging.getLogger(__name__)

_Watch = Coroutine[Any, Any, None]

# A certificate that is written in place may lack those of its intermediate authorities for a moment. Shorter than
# file_changes.STILL_S: a renewed certificate is to be in force within a second.
STILL_S = 0.4
# What does not fit together for so long is reported.
REPORTED_AFTER_S = 1.0


@dataclass(slots=True)
class TlsContexts:
    """The TLS contexts of the listeners for clients and for operators, and of connections to the application and to
    the admin listeners of other sidecars. None where TLS is off.

    A context is replaced, not changed, when its files change: so new connections know neither authorities that were
    removed nor sessions that these have vouched for.
    """

    clients: ssl.SSLContext | None
    admin: ssl.SSLContext | None
    upstream: ssl.SSLContext | None
    peers: ssl.SSLContext | None

    @classmethod
    def of(cls, settings: Settings) -> "TlsContexts":
        """Read the files. Raises OSError with the file that cannot be used."""
        own, peers = _upstream_files(settings), _peer_files(settings)
        return cls(
            server_context(settings.listen.tls),
            server_context(settings.admin.tls),
            client_context(own) if settings.upstream.url.tls else None,
            client_context(peers) if any(peers) else None,
        )

    def watches(
        self,
        settings: Settings,
        admin_renewed: Callable[[], Awaitable[None]],
        upstream_renewed: Callable[[ssl.SSLContext], None],
    ) -> list[_Watch]:
        """Coroutines that replace the contexts when files change; each runs until cancelled."""
        listen, admin = settings.listen.tls, settings.admin.tls
        own, peers = _upstream_files(settings), _peer_files(settings)

        async def clients_changed() -> None:
            self.clients = server_context(listen)

        async def admin_changed() -> None:
            self.admin = server_context(admin)
            await admin_renewed()

        async def upstream_changed() -> None:
            self.upstream = client_context(own)
            upstream_renewed(self.upstream)

        async def peers_changed() -> None:
            self.peers = client_context(peers)

        watched = (
            (self.clients, listen.files, clients_changed),
            (self.admin, admin.files, admin_changed),
            (self.upstream, own, upstream_changed),
            (self.peers, peers, peers_changed),
        )
        return [CertificateWatch(files, act).watch() for context, files, act in watched if context and any(files)]


def _upstream_files(settings: Settings) -> TlsFiles:
    upstream = settings.upstream
    return TlsFiles(upstream.cert_file, upstream.key_file, upstream.ca_file)


def _peer_files(settings: Settings) -> TlsFiles:
    """A sidecar presents the certificate of its own admin listener to the others'."""
    admin = settings.admin
    return TlsFiles(admin.tls.cert_file, admin.tls.key_file, admin.peers_ca_file)


class CertificateWatch:
    """Calls `renew` when files change; it raises OSError where they cannot be used, and changes nothing then.

    Both files of a pair are seldom replaced at the same moment: what does not fit together is tried again at each poll,
    and reported once it has stayed so for a second.
    """

    def __init__(self, files: TlsFiles, renew: Callable[[], Awaitable[None]]) -> None:
        self._files = files
        self._renew = renew
        self._changes = FileChanges(self._signatures(), STILL_S)

    async def watch(self) -> None:
        """Renew whenever a file has changed. Runs until cancelled."""
        loop, since_s, reported = asyncio.get_running_loop(), 0.0, None
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            found, now_s = self._signatures(), loop.time()
            if not self._changes.is_due(found, now_s):
                continue
            since_s = since_s or now_s
            try:
                await self._renew()
            except OSError as error:
                if now_s - since_s >= REPORTED_AFTER_S and reported != found:
                    reported = found
                    logger.error("certificate_refused", extra={"fields": {"reason": error.strerror or str(error)}})  # noqa: TRY400
            else:
                self._changes.take(found)
                since_s = 0.0
                shown = self._files.cert_file or self._files.ca_file
                logger.info("certificate_renewed", extra={"fields": {"file": shown}})

    def _signatures(self) -> Signatures:
        return signatures(Path(name) for name in self._files if name is not None)
