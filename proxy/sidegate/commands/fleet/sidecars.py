"""Queries the admin APIs of several sidecars at once."""

import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

# For pages that a sidecar answers from memory: one that hangs must not delay the others.
TIMEOUT_S = 2.0
# For pages that wait for the store: the admin API gives up after about 4 s and says why.
STORE_TIMEOUT_S = 10.0
LARGEST_ANSWER_BYTES = 16 * 2**20
# `sidegate run` without a setting; the demonstration's three.
DEFAULT_PORT = 9901
DEMONSTRATION_PORTS = (9081, 9082, 9083)

# An HTTP proxy in the environment is for other hosts, not for an admin listener.
_opener = build_opener(ProxyHandler({}))


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


def default_urls(
    environ: Mapping[str, str],
    default_port: int = DEFAULT_PORT,
    demonstration_ports: Sequence[int] = DEMONSTRATION_PORTS,
) -> list[str]:
    """The sidecar of ADMIN_PORT if that is set, else one on port 9901, else the demonstration's if any answers."""
    if port := environ.get("ADMIN_PORT"):
        ports: Sequence[int | str] = (port,)
    elif not _accepts(default_port) and any(map(_accepts, demonstration_ports)):
        ports = demonstration_ports
    else:
        ports = (default_port,)
    return [f"http://127.0.0.1:{number}" for number in ports]


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
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        return SidecarReply(url, 0, {}, f"no answer: {reason}")


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
