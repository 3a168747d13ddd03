"""Questions over HTTP, each with a short limit."""

import http.client
import urllib.parse
from dataclasses import dataclass

from deploy.settings import NUMBERS, Settings

_LIMIT_S = 2.0
_MOST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` is None when nothing answered; `text` then says why."""

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


def health(settings: Settings) -> dict[str, Answer]:
    """What each sidecar says of itself, its application and the store."""
    return {f"proxy{number}": get(f"{settings.proxy_url(number)}/health") for number in NUMBERS}
