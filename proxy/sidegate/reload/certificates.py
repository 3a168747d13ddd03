"""The TLS contexts of a sidecar, which use certificates that are replaced on disk without a restart."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from sidegate.config import Settings
from sidegate.config.tls_settings import TlsFiles, client_context, renew, server_context
from sidegate.reload.file_changes import LOOK_EVERY_S, FileChanges, Signatures, signatures

logger = logging.getLogger(__name__)


# A certificate that is written in place may lack those of its intermediate authorities for a moment. Shorter than
# file_changes.STILL_S: a renewed certificate is to be in force within a second.
STILL_S = 0.4
# What does not fit together for so long is reported.
REPORTED_AFTER_S = 1.0


class TlsContexts(NamedTuple):
    """The TLS contexts of the listeners for clients and for operators, and of connections to the application and to
    the admin listeners of other sidecars. None where TLS is off."""

    clients: ssl.SSLContext | None
    admin: ssl.SSLContext | None
    upstream: ssl.SSLContext | None
    peers: ssl.SSLContext | None

    @classmethod
    def of(cls, settings: Settings) -> "TlsContexts":
        """Read the files. Raises OSError with the file that cannot be used."""
        listen, admin, upstream = settings.listen, settings.admin, settings.upstream
        own, peers = _upstream_files(settings), _peer_files(settings)
        return cls(
            server_context(listen.tls),
            server_context(admin.tls),
            client_context(own) if upstream.url.tls else None,
            client_context(peers) if any(peers) else None,
        )

    def watches(self, settings: Settings, use: Callable[[ssl.SSLContext], None]) -> list[Coroutine[Any, Any, None]]:
        """Coroutines that renew the contexts when files change; each runs until cancelled.

        `use` replaces the context of new client connections by one that has forgotten former authorities and sessions.
        """

        def replace() -> None:
            if (context := server_context(settings.listen.tls)) is not None:
                use(context)

        files = (settings.listen.tls.files, settings.admin.tls.files, _upstream_files(settings), _peer_files(settings))
        return [
            CertificateWatch(context, each, replace if context is self.clients else None).watch()
            for context, each in zip(self, files, strict=True)
            if context is not None and any(each)
        ]


def _upstream_files(settings: Settings) -> TlsFiles:
    upstream = settings.upstream
    return TlsFiles(upstream.cert_file, upstream.key_file, upstream.ca_file)


def _peer_files(settings: Settings) -> TlsFiles:
    """A sidecar presents the certificate of its own admin listener to the others'."""
    admin = settings.admin
    return TlsFiles(admin.tls.cert_file, admin.tls.key_file, admin.peers_ca_file)


class CertificateWatch:
    """Renews a context when its files change.

    Both files of a pair are seldom replaced at the same moment: what does not fit together is tried again at each poll,
    and reported once it has stayed so for a second.
    """

    def __init__(self, context: ssl.SSLContext, files: TlsFiles, then: Callable[[], None] | None = None) -> None:
        self._context = context
        self._files = files
        self._then = then  # may raise OSError as `renew` does
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
                renew(self._context, self._files)
                if self._then is not None:
                    self._then()
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
