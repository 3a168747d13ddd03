"""The admin listener: for operators and probes, on loopback unless told otherwise. Speed is not the point here."""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from proxy.config import AdminSettings

HealthPage = Callable[[], Awaitable[tuple[int, Mapping[str, object]]]]


class Admin:
    """Serves `/livez`, `/readyz` and `/metrics`."""

    def __init__(self, settings: AdminSettings, health: HealthPage, exposition: Callable[[], bytes]) -> None:
        self._settings = settings
        self._health = health
        self._exposition = exposition
        self._runner: web.AppRunner | None = None

    async def listen(self) -> None:
        """Accept connections. Raises OSError where the address cannot be had."""
        application = web.Application()
        application.add_routes(
            [web.get("/livez", self._livez), web.get("/readyz", self._readyz), web.get("/metrics", self._metrics)]
        )
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._settings.host, self._settings.port).start()

    async def close(self) -> None:
        """Stop, finishing what is being answered."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _livez(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        status, content = await self._health()
        return web.json_response(content, status=status)

    async def _metrics(self, _: web.Request) -> web.Response:
        body = self._exposition()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
