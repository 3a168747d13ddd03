"""Asks whether the application is well: by a request for `upstream.health.path`, or else by a connection alone.

The probe has a connection of its own, so that it is never limited, never counted as traffic, and finds an application
that accepts connections and answers nothing.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Iterator
from typing import NamedTuple

from sidegate.config import UpstreamSettings
from sidegate.config.tls_settings import CurrentTls, no_tls
from sidegate.decision.reading import Reading

# Without a path, an application is not checked more often than this, however often the pages are read.
CONNECT_EVERY_S = 0.5
# A status line is not longer.
LONGEST_LINE_BYTES = 1024

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: .*)?\r?\n")

logger = logging.getLogger(__name__)


class ApplicationFault(NamedTuple):
    """Why the application is not well. `answers`: it does, but with an error or without HTTP."""

    text: str
    answers: bool = False


class ApplicationProbe:
    """Probes the application when asked, and not again within `upstream.health.interval`."""

    def __init__(self, upstream: UpstreamSettings, tls: CurrentTls = no_tls) -> None:
        self._upstream = upstream
        self._tls = tls
        self._health = upstream.health
        self._every_s = self._health.interval_s if self._health.path else CONNECT_EVERY_S
        self._timeout_s = self._health.timeout_s if self._health.path else upstream.connect_timeout_s
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._checked_s = -self._every_s
        self._fault: ApplicationFault | None = None

    @property
    def has_path(self) -> bool:
        """Whether it asks the application, by `upstream.health.path`, and does not only connect."""
        return bool(self._health.path)

    async def fault(self) -> ApplicationFault | None:
        """Why the application is not well; None if it is."""
        async with self._lock:
            if self._loop.time() - self._checked_s >= self._every_s:
                before, self._fault = self._fault, await self._probe()
                self._checked_s = self._loop.time()
                self._log_change(before)
            return self._fault

    def readings(self) -> Iterator[Reading]:
        """Whether the last probe found the application well."""
        text = "Whether the last probe found the application well; 1 before the first one."
        yield Reading("upstream_healthy", text, lambda: self._fault is None)

    def _log_change(self, before: ApplicationFault | None) -> None:
        if not self._health.path or (before is None) == (self._fault is None):
            return
        if self._fault is not None:
            logger.warning("application_unhealthy", extra={"fields": {"reason": self._fault.text}})
        else:
            logger.info("application_healthy")

    async def _probe(self) -> ApplicationFault | None:
        place = self._upstream.url.place
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._ask()
        except TimeoutError:
            did = "answer" if self._health.path else "accept a connection"
            return ApplicationFault(f"{place} did not {did} within {self._timeout_s:g} s")
        except OSError as error:
            return ApplicationFault(f"{place}: {error.strerror or error}")

    async def _ask(self) -> ApplicationFault | None:
        url = self._upstream.url
        if url.socket:
            reader, writer = await asyncio.open_unix_connection(url.socket, limit=LONGEST_LINE_BYTES)
        else:
            tls = self._tls()
            name = url.host.rstrip(".") if tls else None
            reader, writer = await asyncio.open_connection(
                url.host, url.port, limit=LONGEST_LINE_BYTES, ssl=tls, server_hostname=name
            )
        try:
            return await self._answer_fault(reader, writer) if self._health.path else None
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer_fault(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> ApplicationFault | None:
        path, authority = self._health.path, self._upstream.url.authority
        lines = (f"GET {path} HTTP/1.1", f"Host: {authority}", "User-Agent: sidegate-health", "Connection: close")
        writer.write("\r\n".join([*lines, "", ""]).encode("ascii"))
        try:
            line = await reader.readline()
        except ValueError:  # no line is that long
            line = b""
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            return ApplicationFault(f"GET {path} got no HTTP answer from {self._upstream.url.place}", answers=True)
        status = int(match[1])
        if 200 <= status < 400:
            return None
        return ApplicationFault(f"GET {path} was answered {status} by {self._upstream.url.place}", answers=True)
