"""Queries the admin APIs of several sidecars at once."""

import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException, RemoteDisconnected
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

# For pages that a sidecar answers from memory: one that hangs must not delay the others.
TIMEOUT_S = 2.0
# For pages that wait for the store: the admin API gives up after about 4 s and says why.
STORE_TIMEOUT_S = 10.0
LARGEST_ANSWER_BYTES = 16 * 2**20
# `sidegate run` without a setting; the demonstration's three.
DEFAULT_PORT = 9901
DEMONSTRATION_PORTS = (9081, 9082, 9083)

# An HTTP proxy in the environment is for other hosts, not for an admin listener.
_DIRECT = ProxyHandler({})
_opener = build_opener(_DIRECT)


class SidecarReply(NamedTuple):
    """A sidecar's answer: its content, or the reason why there is none."""

    url: str
    status: int
    content: Mapping[str, Any]
    fault: str

    @property
    def name(self) -> str:
        """Host and port."""
        return self.url.partition("://")[2]


def use_tls(ca_file: str | None, cert_file: str | None, key_file: str | None) -> None:
    """Verify the certificates of sidecars by this authority (default: the system's), and present this certificate.

    Raises OSError with the file that cannot be used. Affects all later requests of the process.
    """
    from sidegate.config.tls_settings import TlsFiles, client_context  # noqa: PLC0415  (slow to load, seldom used)

    global _opener  # noqa: PLW0603  (one command is one process with one set of arguments)
    _opener = build_opener(_DIRECT, HTTPSHandler(context=client_context(TlsFiles(cert_file, key_file, ca_file))))


def default_urls(
    environ: Mapping[str, str],
    default_port: int = DEFAULT_PORT,
    demonstration_ports: Sequence[int] = DEMONSTRATION_PORTS,
    scheme: str = "http",
) -> list[str]:
    """The sidecar of ADMIN_PORT if that is set, else one on port 9901, else the demonstration's if any answers."""
    if port := environ.get("ADMIN_PORT"):
        ports: Sequence[int | str] = (port,)
    elif not _accepts(default_port) and any(map(_accepts, demonstration_ports)):
        ports = demonstration_ports
    else:
        ports = (default_port,)
    return [f"{scheme}://127.0.0.1:{number}" for number in ports]


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S):
            return True
    except OSError:
        return False


def ask_all(urls: Sequence[str], path: str, *, method: str = "GET", timeout_s: float = TIMEOUT_S) -> list[SidecarReply]:
    """Send the same request to every sidecar at once; never raises."""
    with ThreadPoolExecutor(max(1, len(urls))) as pool:
        return list(pool.map(lambda url: ask(url, path, method=method, timeout_s=timeout_s), urls))


def ask(url: str, path: str, *, method: str = "GET", timeout_s: float = TIMEOUT_S) -> SidecarReply:
    """Send one request; never raises. The token is that of ADMIN_TOKEN."""
    token = os.environ.get("ADMIN_TOKEN", "")
    fields = {"Authorization": f"Bearer {token}"} if token else {}
    request = Request(url + path, method=method, headers=fields)  # noqa: S310  (arguments must be http or https)
    try:
        with _opener.open(request, timeout=timeout_s) as reply:
            return SidecarReply(url, reply.status, _content(reply.read(LARGEST_ANSWER_BYTES)), "")
    except HTTPError as error:
        if error.code == 401:
            return SidecarReply(url, 401, {}, _token_fault(token))
        try:
            content = _content(error.read(LARGEST_ANSWER_BYTES))
        except ValueError as fault:
            return SidecarReply(url, error.code, {}, f"answered {error.code}: {fault}")
        return SidecarReply(url, error.code, content, str(content.get("detail") or f"answered {error.code}"))
    except TimeoutError:
        return SidecarReply(url, 0, {}, f"no answer within {timeout_s:g} s")
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return SidecarReply(url, 0, {}, f"no answer: {_without_code(reason)}{_tls_advice(url, reason)}")


def _without_code(reason: object) -> str:
    """The text of an error without what Python's ssl module adds: `[SSL: NAME] text (_ssl.c:1006)`."""
    return re.sub(r"^\[\w+: \w+\] | \(_ssl\.c:\d+\)$", "", str(reason)) or type(reason).__name__


def _tls_advice(url: str, reason: object) -> str:
    """What to do about a failed TLS connection, or one that should have been TLS."""
    name = str(reason)
    if "CERTIFICATE_VERIFY_FAILED" in name:
        return "; name the authority of its certificate with --ca-file"
    if "CERTIFICATE_REQUIRED" in name or "HANDSHAKE_FAILURE" in name:
        return "; present a certificate with --cert-file and --key-file"
    if "WRONG_VERSION_NUMBER" in name or "RECORD_LAYER_FAILURE" in name:
        return "; does it speak http:// there?"
    if not isinstance(reason, RemoteDisconnected | ConnectionResetError):
        return ""
    scheme, _, place = url.partition("://")
    if scheme.lower() == "http":
        return f"; with admin.tls its URL begins with https://: --admin https://{place}"
    return "; with admin.tls.client_ca_file it needs a certificate: --cert-file and --key-file"


def _token_fault(token: str) -> str:
    if token:
        return "ADMIN_TOKEN is not the token of this sidecar; expected the value of its admin.token"
    return "this sidecar requires a token; set the environment variable ADMIN_TOKEN to the value of its admin.token"


def bucket_path(policy: str, key: str) -> str:
    """The path of one bucket.

    A key is itself percent-encoded text; in a path it is encoded once more.
    """
    return f"/buckets/{quote(policy, safe='')}/{quote(encoded_key(key), safe='')}"


def encoded_key(key: str) -> str:
    """A key as `buckets list` shows it: characters that such text cannot contain are percent-encoded."""
    return re.sub(r"[^A-Za-z0-9._~@+%=:,-]", lambda found: quote(found[0], safe=""), key)


def _content(raw: bytes) -> Mapping[str, Any]:
    found = json.loads(raw)
    if not isinstance(found, dict):
        raise ValueError("the answer is not a JSON object; is this an admin port?")  # noqa: TRY004  (of the answer)
    return found
