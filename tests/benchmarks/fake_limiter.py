"""A limiter to measure, small enough to be read: one bucket a user, shared by any number of sidecars."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

Start = Callable[["FakeLimiter"], Awaitable[list[str]]]


@dataclass
class FakeLimiter:
    """Answers as a sidecar does, from buckets that never refill while a test runs (a token a day).

    Its faults: `gives_away` admits so many requests a user too many, `withholds` refuses so many tokens that are
    there, `answers` a status to every request, `unmarked` leaves out the rate-limit fields.
    """

    burst: int = 15
    initial: int = 10
    gives_away: int = 0
    withholds: int = 0
    answers: int | None = None
    unmarked: bool = False
    policies: bool = True
    taken: dict[str, int] = field(default_factory=dict)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def data(self, request: web.Request) -> web.Response:
        self.asked.set()
        user = request.headers["X-User-ID"]
        taken = self.taken.get(user, 0)
        admits = taken < self.initial + self.gives_away - self.withholds
        self.taken[user] = taken + admits
        left = str(max(0, self.initial - self.taken[user]))
        fields = {"RateLimit-Policy": '"ratelimit";q=15;w=90', "X-RateLimit-Limit": "15", "X-RateLimit-Remaining": left}
        status = self.answers or (200 if admits else 429)
        return web.json_response({}, status=status, headers={} if self.unmarked else fields | {"Retry-After": "86400"})

    async def status(self, request: web.Request) -> web.Response:
        user = request.headers["X-User-ID"]
        left = self.initial - self.taken.get(user, 0)
        rate = {"tokens": 1, "period_us": 86_400_000_000}
        reset_s = (self.burst - left) * 86_400
        policy = {"name": "ratelimit", "key": user, "limit": 15, "burst": self.burst, "rate": rate}
        state = {"remaining": left, "cost": 1, "reset_s": reset_s, "shadow": False}
        return web.json_response({"client": user, "policies": [policy | state] if self.policies else []})

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/status", self.status)
        app.router.add_get("/api/data", self.data)
        return app
