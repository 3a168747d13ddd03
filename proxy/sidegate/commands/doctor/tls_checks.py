"""Checks of the files for TLS: readable, key and certificate belong together, not expired."""

import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

from sidegate.commands.doctor.diagnosis import Diagnosis, failure, ok, warning
from sidegate.config import Settings
from sidegate.config.tls_settings import TlsFiles, client_context

# Certificates are commonly renewed 30 days before they end; one that still has fewer days was probably forgotten.
SOON_S = 14 * 86400
_DAY_S = 86400


class TlsUse(NamedTuple):
    """The files of one section of the configuration, and the names of their settings."""

    section: str
    files: TlsFiles
    authority: str


def check_tls(settings: Settings, now_s: float | None = None) -> Iterator[Diagnosis]:
    """Check all files for TLS. `now_s` is the time of day, in seconds since 1970."""
    now_s = time.time() if now_s is None else now_s  # noqa: TID251  (certificates end at a time of day)
    for use in _uses(settings):
        if any(use.files):
            yield from _check(use, now_s)


def _uses(settings: Settings) -> Iterator[TlsUse]:
    listen, admin, upstream, store = settings.listen.tls, settings.admin, settings.upstream, settings.store
    yield TlsUse("listen.tls", listen.files, "client_ca_file")
    yield TlsUse("admin.tls", admin.tls.files, "client_ca_file")
    yield TlsUse("admin", TlsFiles(None, None, admin.peers_ca_file), "peers_ca_file")
    yield TlsUse("upstream", TlsFiles(upstream.cert_file, upstream.key_file, upstream.ca_file), "ca_file")
    yield TlsUse("store", TlsFiles(store.cert_file, store.key_file, store.ca_file), "ca_file")


def _check(use: TlsUse, now_s: float) -> Iterator[Diagnosis]:
    try:
        context = client_context(use.files)
    except OSError as error:
        yield failure("TLS", f"{use.section}: {error.strerror or error}", "correct the files, or their permissions")
        return
    if use.files.cert_file is not None:
        yield _lifetime(f"{use.section}.cert_file", use.files.cert_file, _first_certificate(use.files.cert_file), now_s)
    if use.files.ca_file is not None:
        for authority in context.get_ca_certs():
            yield _lifetime(f"{use.section}.{use.authority}", use.files.ca_file, authority, now_s)


def _first_certificate(name: str) -> Mapping[str, Any]:
    """The certificate of the listener itself, decoded; those behind it are of intermediate authorities."""
    # `ssl` decodes only certificates of connections; this function is for its own tests, and has not changed since 2.6.
    return cast("Mapping[str, Any]", cast(Any, ssl)._ssl._test_decode_cert(name))


def _lifetime(setting: str, name: str, certificate: Mapping[str, Any], now_s: float) -> Diagnosis:
    begins_s, ends_s = (ssl.cert_time_to_seconds(certificate[key]) for key in ("notBefore", "notAfter"))
    shown = f"{setting}: {name}"
    if now_s >= ends_s:
        return failure("TLS", f"{shown} expired on {certificate['notAfter']}", "renew it; no restart is needed")
    if now_s < begins_s:
        return failure("TLS", f"{shown} is valid only from {certificate['notBefore']}", "check this machine's clock")
    days = int((ends_s - now_s) / _DAY_S)
    if ends_s - now_s < SOON_S:
        return warning("TLS", f"{shown} expires in {days} days", "renew it; no restart is needed")
    return ok("TLS", f"{shown} is valid for {days} days")
