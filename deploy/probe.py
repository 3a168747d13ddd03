"""HTTP requests and connection checks with a short timeout."""

import http.client
import socket
import urllib.parse
from dataclasses import dataclass

from deploy.settings import NUMBERS, Settings

_LIMIT_S = 2.0
_MOST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response. `status` is None if there was none; `text` then holds the reason."""

    status: int | None
    text: str

    @property
    def good(self) -> bool:
        return self.status == http.client.OK


def get(url: str) -> Answer:
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_LIMIT_S)
    try:
        connection.request("GET", parts.path)
        response = connection.getresponse()
        return Answer(response.status, response.read(_MOST_BYTES).decode(errors="replace").strip())
    except (OSError, http.client.HTTPException) as fault:
        return Answer(None, f"no answer: {str(fault) or type(fault).__name__}")
    finally:
        connection.close()


def accepts(url: str) -> bool:
    """Whether something accepts TCP connections at the URL's host and port."""
    parts = urllib.parse.urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), _LIMIT_S):
            return True
    except OSError:
        return False


def health(settings: Settings) -> dict[str, Answer]:
    """Return `GET /health` of each sidecar."""
    return {f"proxy{number}": get(f"{settings.proxy_url(number)}/health") for number in NUMBERS}
