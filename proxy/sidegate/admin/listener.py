"""The admin listener: serves API, metrics and dashboard to operators and probes, on loopback by default.

Its endpoints are listed in admin/endpoints, its access rules in admin/access.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from importlib.resources import files
from typing import Any

from aiohttp import hdrs, web

from sidegate.admin.access import AccessControl
from sidegate.admin.endpoints import ENDPOINTS, AdminEndpoint, AdminPages, respond
from sidegate.admin.openapi import document
from sidegate.admin.request_models import validated
from sidegate.admin.responses import Problem, json_answer
from sidegate.admin.runbook import runbook_html
from sidegate.config import AdminSettings
from sidegate.config.tls_settings import CurrentTls, no_tls

LARGEST_BODY_BYTES = 64 * 1024
TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_STATIC = {
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
    "charts.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}

RequestHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminListener:
    """Serves the pages."""

    def __init__(self, settings: AdminSettings, pages: AdminPages, tls: CurrentTls = no_tls) -> None:
        self._settings = settings
        self._pages = pages
        self._tls = tls
        self._runner: web.AppRunner | None = None
        self._servers: list[asyncio.Server] = []

    async def listen(self) -> None:
        """Accept connections. Raises OSError if the address is not available."""
        application = web.Application(client_max_size=LARGEST_BODY_BYTES)
        AccessControl(self._settings.token.get_secret_value()).install(application)
        application.add_routes(self._routes())
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        self._servers = [await self._serve(host=self._settings.host, port=self._settings.port)]

    async def renew_tls(self) -> None:
        """Use the present TLS context for new connections. Open ones stay, and none is refused meanwhile."""
        former = self._servers
        # A copy is the same socket to the kernel, with the same queue of connections.
        copies = [socket.socket(fileno=os.dup(each.fileno())) for server in former for each in server.sockets]
        self._servers = [await self._serve(sock=each) for each in copies]
        for server in former:
            server.close()

    async def close(self) -> None:
        """Stop, after the requests under way are answered."""
        self._pages.events.end()
        for server in self._servers:
            server.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, **where: Any) -> asyncio.Server:
        connections: Any = self._runner.server if self._runner else None
        return await asyncio.get_running_loop().create_server(connections, ssl=self._tls(), **where)

    def _routes(self) -> Iterator[web.RouteDef]:
        yield web.get("/", _file("dashboard.html", "text/html"))
        yield web.get("/runbook", _runbook)
        for name, kind in _STATIC.items():
            yield web.get(f"/static/{name}", _file(name, kind))
        yield web.get("/metrics", self._metrics)
        yield web.get("/openapi.json", _openapi)
        yield web.get("/events", self._pages.events.stream, allow_head=False)
        for endpoint in ENDPOINTS:
            yield web.route(endpoint.method, endpoint.path, self._handler(endpoint))

    def _handler(self, endpoint: AdminEndpoint) -> RequestHandler:
        async def handle(request: web.Request) -> web.StreamResponse:
            match endpoint.source:
                case "query":
                    given = validated(endpoint.input, dict(request.query))
                case "path":
                    given = validated(endpoint.input, dict(request.match_info))
                case "body":
                    if request.content_type != "application/json":
                        raise Problem(415, "The body must have the content type application/json.")
                    given = validated(endpoint.input, await request.read())
                case _:
                    given = endpoint.input()
            return await respond(endpoint, self._pages, given)

        return handle

    async def _metrics(self, request: web.Request) -> web.Response:
        openmetrics = "application/openmetrics-text" in request.headers.get(hdrs.ACCEPT, "")
        body = self._pages.view.exposition(openmetrics=openmetrics)
        return web.Response(body=body, headers={"Content-Type": OPENMETRICS if openmetrics else TEXT_FORMAT})


async def _openapi(_: web.Request) -> web.Response:
    return json_answer(document())


async def _runbook(_: web.Request) -> web.Response:
    return web.Response(text=runbook_html(), content_type="text/html", charset="utf-8")


def _file(name: str, kind: str) -> RequestHandler:
    body = files(__package__).joinpath("static", name).read_bytes()

    async def page(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return page
