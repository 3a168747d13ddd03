"""The name in a client's certificate, as `client_cert` reads it."""

from collections.abc import Mapping
from typing import Any

# The kinds of alternative names that identify a client, the best first (SPIFFE ids are URIs).
_KINDS = ("URI", "DNS")
# RFC 4514 §3; other attributes have their long name.
_SHORT = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
}
_ESCAPED = str.maketrans({character: f"\\{character}" for character in ',+"\\<>;='})


def certificate_name(certificate: Mapping[str, Any] | None) -> str:
    """The first URI, else the first DNS name, else the subject (RFC 4514: `CN=alice,O=Example`) of a certificate.

    `certificate` is verified, and has the form of `ssl.SSLSocket.getpeercert`. Empty where there is none, or no name.
    """
    if not certificate:
        return ""
    names = certificate.get("subjectAltName", ())
    for wanted in _KINDS:
        for kind, value in names:
            if kind == wanted:
                return str(value).lower() if kind == "DNS" else str(value)
    attributes: list[tuple[str, str]] = [attribute for part in certificate.get("subject", ()) for attribute in part]
    return ",".join(f"{_SHORT.get(name, name)}={value.translate(_ESCAPED)}" for name, value in reversed(attributes))
