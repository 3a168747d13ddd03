"""Counts the TLS handshakes with clients that failed, by reason. A connection that ends so makes no log line."""

import ssl
from collections.abc import Iterator

from sidegate.decision.reading import Reading

# By OpenSSL's words for the error. An alert is what the client sent: it refuses the sidecar's certificate or version.
_PARTS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "CERTIFICATE_VERIFY_FAILED": "untrusted_certificate",
    "HTTP_REQUEST": "not_tls",
    "WRONG_VERSION_NUMBER": "not_tls",
    "RECORD_LAYER_FAILURE": "not_tls",
    "UNSUPPORTED_PROTOCOL": "no_common_version",
    "VERSION_TOO_LOW": "no_common_version",
    "NO_SHARED_CIPHER": "no_common_version",
    "ALERT": "refused_by_client",
}
_TIMEOUT, _CLOSED, _OTHER = "timeout", "closed_by_client", "other"


class FailedHandshakes:
    """Counts by reason: no label value comes from a client."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys((*_PARTS.values(), _TIMEOUT, _CLOSED, _OTHER), 0)

    def note(self, error: OSError) -> str:
        """Count one; returns its reason."""
        reason = _reason(error)
        self.counts[reason] += 1
        return reason

    def readings(self) -> Iterator[Reading]:
        """The counter."""
        text = "TLS handshakes with clients that failed, by reason."
        yield Reading("tls_handshake_failures", text, lambda: self.counts, label="reason", is_counter=True)


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionAbortedError):
        return _TIMEOUT  # the event loop's error for it
    # The latter: the connection ended in the midst of TLS.
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError):
        return _CLOSED
    words = error.reason or ""
    return next((reason for part, reason in _PARTS.items() if part in words), _OTHER)
