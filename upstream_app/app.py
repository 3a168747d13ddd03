"""The demonstration application. It stands behind a sidecar and knows nothing of rate limits.

`python upstream_app/app.py` listens on HOST (127.0.0.1) and PORT (9000) as NAME (app), until SIGTERM. It answers:

GET  /api/data                        a small JSON document
GET  /api/slow?seconds=1              the same, later (at most 30 s)
GET  /api/stream?bytes=N[&chunked=1]  N bytes in pieces (at most 2 GiB): 0, 1, ... 255, 0, 1, ...
POST /api/upload                      counts and hashes the body, which may have any length
GET  /healthz                         200
*    anything else                    tells what arrived: method, path, header fields, length of the body
"""

import asyncio
import hashlib
import json
import os
import secrets
import sys
from functools import partial

from aiohttp import web

# Requests in flight may end within this time after SIGTERM.
DRAIN_S = 10.0
SLOW_MAX_S = 30.0
STREAM_MAX_BYTES = 2 * 2**30
# An echo holds the body in memory; a longer one is answered 413. An upload is never held.
ECHO_MAX_BYTES = 16 * 2**20
PIECE = bytes(range(256)) * 256

NAME = web.AppKey("name", str)


def make_app(name: str) -> web.Application:
    """The application; it introduces itself as `name`."""
    app = web.Application(client_max_size=ECHO_MAX_BYTES)
    app[NAME] = name
    app.router.add_get("/api/data", data)
    app.router.add_get("/api/slow", slow)
    app.router.add_get("/api/stream", stream)
    app.router.add_post("/api/upload", upload)
    app.router.add_get("/healthz", healthz)
    app.router.add_route("*", "/{anything:.*}", echo)
    return app


async def data(request: web.Request) -> web.Response:
    return _told(request, message="Hello from behind the sidecar.")


async def slow(request: web.Request) -> web.Response:
    seconds = _number(request, "seconds", default=1.0, most=SLOW_MAX_S)
    await asyncio.sleep(seconds)
    return _told(request, message=f"That took {seconds:g} s.")


async def stream(request: web.Request) -> web.StreamResponse:
    left = int(_number(request, "bytes", default=2**20, most=STREAM_MAX_BYTES))
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    if request.query.get("chunked", "0") not in {"", "0"}:
        response.enable_chunked_encoding()
    else:
        response.content_length = left
    await response.prepare(request)
    if request.method == "HEAD":
        left = 0
    while left > 0:
        await response.write(PIECE[:left])
        left -= len(PIECE)
    await response.write_eof()
    return response


async def upload(request: web.Request) -> web.Response:
    count, digest = 0, hashlib.sha256()
    async for piece in request.content.iter_any():
        count += len(piece)
        digest.update(piece)
    return _told(request, bytes=count, sha256=digest.hexdigest())


async def healthz(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok", "app": request.app[NAME]})


async def echo(request: web.Request) -> web.Response:
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]
    body = await request.read()
    return _told(request, method=request.method, path=request.raw_path, headers=fields, body_bytes=len(body))


def _told(request: web.Request, **facts: object) -> web.Response:
    """A JSON answer that says who answers, whom, and which request."""
    who = {
        "app": request.app[NAME],
        "user": request.headers.get("X-User-ID"),
        "request_id": request.headers.get("X-Request-ID") or secrets.token_hex(8),
    }
    return web.json_response(who | facts, dumps=lambda content: json.dumps(content) + "\n")


def _number(request: web.Request, name: str, *, default: float, most: float) -> float:
    """A number of the query. Raises HTTPBadRequest where it is none, or not within 0 and `most`."""
    text = request.query.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if 0 <= value <= most:
        return value
    raise web.HTTPBadRequest(text=f"{name}: expected a number from 0 to {most:.0f}, found {text!r}\n")


def main() -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, or 2 where PORT is no port."""
    port = os.environ.get("PORT", "9000")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        sys.stderr.write(f"upstream_app: PORT: expected 1 to 65535, found {port!r}\n")
        return 2
    web.run_app(
        make_app(os.environ.get("NAME", "app")),
        host=os.environ.get("HOST", "127.0.0.1"),
        port=int(port),
        access_log=None,
        shutdown_timeout=DRAIN_S,
        handler_cancellation=True,  # a client that leaves a slow answer frees it
        print=partial(print, flush=True),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
