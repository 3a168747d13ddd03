"""Responses of the admin API: JSON documents and problems (RFC 9457)."""

import orjson
from aiohttp import web

from sidegate.telemetry.escaping import utf8_safe_content


class Problem(Exception):
    """A request that is answered with problem+json: a status and a sentence for people."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def json_answer(content: object, status: int = 200) -> web.Response:
    """A JSON document. Lone surrogates (paths that are not UTF-8) are escaped."""
    try:
        body = orjson.dumps(content)
    except TypeError:
        body = orjson.dumps(utf8_safe_content(content))
    return web.Response(body=body + b"\n", status=status, content_type="application/json")


def problem_answer(status: int, detail: str, headers: dict[str, str] | None = None) -> web.Response:
    """The response to a failed request."""
    title = web.Response(status=status).reason
    body = orjson.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}) + b"\n"
    return web.Response(body=body, status=status, content_type="application/problem+json", headers=headers)
