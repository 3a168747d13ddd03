"""Several sidecars asked at once over their admin APIs."""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

# One that does not answer must not hold up what the others say.
TIMEOUT_S = 2.0
LARGEST_ANSWER_BYTES = 16 * 2**20
# The demonstration's.
DEFAULT_PORTS = (9081, 9082, 9083)

# An environment's HTTP proxy is for the world outside, not for an admin listener.
_opener = build_opener(ProxyHandler({}))


class Reply(NamedTuple):
    """What one sidecar answered: its content, or why there is none."""

    url: str
    status: int
    content: Mapping[str, Any]
    fault: str

    @property
    def name(self) -> str:
        """The sidecar, as people call it."""
        return self.url.partition("://")[2]


def default_urls(environ: Mapping[str, str]) -> list[str]:
    """The sidecar of ADMIN_PORT where that is set, else the demonstration's three."""
    port = environ.get("ADMIN_PORT")
    return [f"http://127.0.0.1:{number}" for number in ([port] if port else DEFAULT_PORTS)]


def ask_all(urls: Sequence[str], path: str, *, method: str = "GET") -> list[Reply]:
    """Ask every sidecar the same at the same time; never raises."""
    with ThreadPoolExecutor(max(1, len(urls))) as pool:
        return list(pool.map(lambda url: ask(url, path, method=method), urls))


def ask(url: str, path: str, *, method: str = "GET") -> Reply:
    """Ask one sidecar; never raises. The token is that of ADMIN_TOKEN."""
    token = os.environ.get("ADMIN_TOKEN", "")
    fields = {"Authorization": f"Bearer {token}"} if token else {}
    request = Request(url + path, method=method, headers=fields)  # noqa: S310  (only http and https pass the arguments)
    try:
        with _opener.open(request, timeout=TIMEOUT_S) as reply:
            return Reply(url, reply.status, _content(reply.read(LARGEST_ANSWER_BYTES)), "")
    except HTTPError as error:
        content = _content(error.read(LARGEST_ANSWER_BYTES))
        return Reply(url, error.code, content, str(content.get("detail") or f"answered {error.code}"))
    except (OSError, HTTPException, ValueError) as error:
        return Reply(url, 0, {}, f"no answer: {getattr(error, 'reason', None) or str(error) or type(error).__name__}")


def bucket_path(policy: str, key: str) -> str:
    """The path of one bucket. A key is itself percent-encoded text; in a path it is encoded once more."""
    return f"/buckets/{quote(policy, safe='')}/{quote(key, safe='')}"


def _content(raw: bytes) -> Mapping[str, Any]:
    found = json.loads(raw)
    if not isinstance(found, dict):
        raise ValueError("the answer is not a JSON object; is this an admin port?")  # noqa: TRY004  (an answer's fault)
    return found
