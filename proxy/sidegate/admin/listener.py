"""The admin listener: for operators and probes, on loopback unless told otherwise. Speed is not the point here.

What it answers stands in `admin/openapi`, who is let in in `admin/access`.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files

from aiohttp import web

from sidegate.admin.access import Guard, json_answer
from sidegate.admin.bucket_pages import BucketPages
from sidegate.admin.events import Live
from sidegate.admin.openapi import CURSOR_PATTERN, KEY_PATTERN, NAME_PATTERN, PART_PATTERN, document
from sidegate.admin.request_models import Ask, ask_of, matching, whole
from sidegate.config import AdminSettings

HealthPage = Callable[[], Awaitable[tuple[int, Mapping[str, object]]]]

LARGEST_BODY_BYTES = 64 * 1024
_STATIC = {"dashboard.css": "text/css", "dashboard.js": "text/javascript", "icon.svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Pages:
    """What the pages are made of."""

    health: HealthPage
    exposition: Callable[[], bytes]
    config: Callable[[], dict[str, object]]
    policies: Callable[[], list[dict[str, object]]]
    top: Callable[[int], dict[str, object]]
    explain: Callable[[Ask], Awaitable[dict[str, object]]]
    buckets: BucketPages
    live: Live


class Admin:
    """Serves the admin API and the dashboard."""

    def __init__(self, settings: AdminSettings, pages: Pages) -> None:
        self._settings = settings
        self._pages = pages
        self._runner: web.AppRunner | None = None

    async def listen(self) -> None:
        """Accept connections. Raises OSError where the address cannot be had."""
        application = web.Application(client_max_size=LARGEST_BODY_BYTES)
        Guard(self._settings.token.get_secret_value()).install(application)
        application.add_routes(self._routes())
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._settings.host, self._settings.port).start()

    async def close(self) -> None:
        """Stop, finishing what is being answered."""
        self._pages.live.end()
        if self._runner is not None:
            await self._runner.cleanup()

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", _static("dashboard.html", "text/html")),
            *(web.get(f"/static/{name}", _static(name, kind)) for name, kind in _STATIC.items()),
            web.get("/livez", self._livez),
            web.get("/readyz", self._readyz),
            web.get("/metrics", self._metrics),
            web.get("/openapi.json", self._openapi),
            web.get("/config", self._config),
            web.get("/policies", self._policies),
            web.get("/buckets", self._find),
            web.get("/buckets/{policy}/{key}", self._show),
            web.delete("/buckets/{policy}/{key}", self._reset),
            web.post("/explain", self._explain),
            web.get("/top", self._top),
            web.get("/timeline", self._timeline),
            web.get("/events", self._pages.live.stream, allow_head=False),
        ]

    async def _livez(self, _: web.Request) -> web.Response:
        return json_answer({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        status, content = await self._pages.health()
        return json_answer(content, status)

    async def _metrics(self, _: web.Request) -> web.Response:
        body = self._pages.exposition()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _openapi(self, _: web.Request) -> web.Response:
        return json_answer(document())

    async def _config(self, _: web.Request) -> web.Response:
        return json_answer(self._pages.config())

    async def _policies(self, _: web.Request) -> web.Response:
        return json_answer({"policies": self._pages.policies()})

    async def _find(self, request: web.Request) -> web.Response:
        query = request.query
        policy = matching("policy", query["policy"], NAME_PATTERN) if "policy" in query else ""
        cursor = matching("cursor", query["cursor"], CURSOR_PATTERN) if "cursor" in query else ""
        part = matching("q", query.get("q", ""), PART_PATTERN)
        return json_answer(await self._pages.buckets.find(policy, part, cursor, whole(request, "limit", 100, 1000)))

    async def _show(self, request: web.Request) -> web.Response:
        return json_answer(await self._pages.buckets.show(*_bucket(request)))

    async def _reset(self, request: web.Request) -> web.Response:
        return json_answer(await self._pages.buckets.reset(*_bucket(request)))

    async def _explain(self, request: web.Request) -> web.Response:
        return json_answer(await self._pages.explain(await ask_of(request)))

    async def _top(self, request: web.Request) -> web.Response:
        return json_answer(self._pages.top(whole(request, "limit", 20, 256)))

    async def _timeline(self, request: web.Request) -> web.Response:
        return self._pages.live.page(whole(request, "seconds", 60, 900))


def _bucket(request: web.Request) -> tuple[str, str]:
    path = request.match_info
    return matching("policy", path["policy"], NAME_PATTERN), matching("key", path["key"], KEY_PATTERN)


def _static(name: str, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    body = files(__package__).joinpath("static", name).read_bytes()

    async def page(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return page
