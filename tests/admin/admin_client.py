"""The admin API as a script would use it."""

import http.client
import json
from typing import Any
from urllib.parse import quote

from tests.sidecar import Sidecar


def ask(
    sidecar: Sidecar, path: str, *, method: str = "GET", body: object = None, **fields: str
) -> tuple[int, dict[str, str], Any]:
    """Status, fields (in small letters) and JSON content of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", sidecar.admin_port, timeout=10)
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    data = None if body is None else json.dumps(body)
    if data is not None:
        headers.setdefault("Content-Type", "application/json")
    try:
        connection.request(method, path, data, headers)
        reply = connection.getresponse()
        content = reply.read()
    finally:
        connection.close()
    is_json = "json" in (reply.headers["Content-Type"] or "")
    found = json.loads(content) if is_json and content else content
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}, found


def bucket_path(policy: str, key: str) -> str:
    """A key is itself percent-encoded text; in a path it is encoded once more."""
    return f"/buckets/{policy}/{quote(key, safe='')}"
