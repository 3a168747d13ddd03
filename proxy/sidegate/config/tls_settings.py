"""TLS in the configuration: the sidecar's own certificates, and the authorities that it trusts."""

import ssl
from collections.abc import Callable
from typing import Annotated, NamedTuple, Self

from pydantic import Field, model_validator

from sidegate.config.faults import Wrong
from sidegate.config.section import Section
from sidegate.config.values import Choice, FileName

# Only HTTP/1.1 is spoken, and ALPN says so (RFC 7301).
_ALPN = ["http/1.1"]
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


# The context for new connections, which is replaced when its files change; None where TLS is off.
CurrentTls = Callable[[], ssl.SSLContext | None]


def no_tls() -> None:
    """TLS is off."""


class TlsFiles(NamedTuple):
    """The files of one TLS context: a certificate and its key, and the authorities of the other side."""

    cert_file: str | None
    key_file: str | None
    ca_file: str | None


class TlsSettings(Section):
    """TLS of a listener; off without a certificate."""

    cert_file: FileName = Field(None, description="The certificate, with those of intermediate authorities behind it.")
    key_file: FileName = Field(None, description="The key of the certificate.")
    client_ca_file: FileName = Field(
        None, description="Clients must have a certificate of one of these authorities. Default: they need none."
    )
    min_version: Annotated[str, Choice("1.2", "1.3")] = Field("1.2", description="The lowest version of TLS.")

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        check_pair(self.cert_file, self.key_file)
        if self.client_ca_file is not None and self.cert_file is None:
            raise Wrong([(("client_ca_file",), "takes effect only with cert_file and key_file")])
        return self

    @property
    def files(self) -> TlsFiles:
        """The files to watch."""
        return TlsFiles(self.cert_file, self.key_file, self.client_ca_file)


def check_pair(cert_file: str | None, key_file: str | None) -> None:
    """Raise Wrong where a certificate has no key, or a key no certificate."""
    if (cert_file is None) != (key_file is None):
        alone, missing = ("cert_file", "key_file") if cert_file else ("key_file", "cert_file")
        raise Wrong([((alone,), f"needs {missing} too; expected both or neither")])


def server_context(settings: TlsSettings) -> ssl.SSLContext | None:
    """The context of a listener; None where TLS is off. Raises OSError with the file that cannot be used."""
    if settings.cert_file is None or settings.key_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.min_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(_ALPN)
    _load(context, settings.cert_file, settings.key_file)
    if settings.client_ca_file is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authorities(context, settings.client_ca_file)
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """The context for connections to a TLS server. Raises OSError with the file that cannot be used."""
    cert_file, key_file, ca_file = files
    context = ssl.create_default_context()
    context.set_alpn_protocols(_ALPN)
    if ca_file is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(_ALPN)
        _load_authorities(context, ca_file)
    if cert_file is not None and key_file is not None:
        _load(context, cert_file, key_file)
    return context


def _load(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    shown = f"{cert_file}, {key_file}"
    try:
        # An empty password: OpenSSL would read one from the terminal.
        context.load_cert_chain(cert_file, key_file, password=lambda: b"")
    except ssl.SSLError as error:
        raise OSError(error.errno, f"{shown}: no certificate and its key: {error.reason}") from error
    except OSError as error:
        raise OSError(error.errno, f"{shown}: {error.strerror}") from error


def _load_authorities(context: ssl.SSLContext, name: str) -> None:
    try:
        context.load_verify_locations(name)
    except ssl.SSLError as error:
        raise OSError(error.errno, f"{name}: no certificates of authorities: {error.reason}") from error
    except OSError as error:
        raise OSError(error.errno, f"{name}: {error.strerror}") from error
