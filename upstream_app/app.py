"""The demonstration application. It runs behind a sidecar and does not implement rate limits.

`python upstream_app/app.py` listens on HOST (127.0.0.1) and PORT (9000) as NAME (app), until SIGTERM. Routes:

GET  /api/data                        a small JSON document
GET  /api/slow?seconds=1              the same, later (at most 30 s)
GET  /api/stream?bytes=N[&chunked=1]  N bytes in pieces (at most 2 GiB): 0, 1, ... 255, 0, 1, ...
POST /api/upload                      counts and hashes the body, which may have any length
GET  /healthz                         200
*    anything else                    echoes method, path, header fields and the length of the body
"""

import asyncio
import hashlib
import json
import os
import secrets
import sys
from functools import partial

from aiohttp import web

# Time for requests in flight after SIGTERM.
DRAIN_S = 10.0
SLOW_MAX_S = 30.0
STREAM_MAX_BYTES = 2 * 2**30
# The echo holds the body in memory and answers 413 to a longer one. The upload does not hold its body.
ECHO_MAX_BYTES = 16 * 2**20
PIECE = bytes(range(256)) * 256

NAME = web.AppKey("name", str)


def make_app(name: str) -> web.Application:
    """Build the application. `name` is in every answer."""
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
    return _json_answer(request, message="Hello from behind the sidecar.")


async def slow(request: web.Request) -> web.Response:
    seconds = _number(request, "seconds", default=1.0, most=SLOW_MAX_S)
    await asyncio.sleep(seconds)
    return _json_answer(request, message=f"That took {seconds:g} s.")


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
    return _json_answer(request, bytes=count, sha256=digest.hexdigest())


async def healthz(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok", "app": request.app[NAME]})


async def echo(request: web.Request) -> web.Response:
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]
    body = await request.read()
    return _json_answer(request, method=request.method, path=request.raw_path, headers=fields, body_bytes=len(body))


def _json_answer(request: web.Request, **more: object) -> web.Response:
    """A JSON answer with the name of the application, the user and the request id."""
    facts = {
        "app": request.app[NAME],
        "user": request.headers.get("X-User-ID"),
        "request_id": request.headers.get("X-Request-ID") or secrets.token_hex(8),
    }
    return web.json_response(facts | more, dumps=lambda content: json.dumps(content) + "\n")


def _number(request: web.Request, name: str, *, default: float, most: float) -> float:
    """A number of the query, from 0 to `most`. Raises HTTPBadRequest for anything else."""
    text = request.query.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if 0 <= value <= most:
        return value
    raise web.HTTPBadRequest(text=f"{name}: expected a number from 0 to {most:.0f}, found {text!r}\n")


def main() -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, or 2 if PORT is not a port."""
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
        handler_cancellation=True,  # cancel a slow answer when its client disconnects
        print=partial(print, flush=True),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
