"""The baseline: an aiohttp server, a ClientSession and one redis-py call per request.

`python -m benchmarks.baseline_proxy PORT UPSTREAM_URL REDIS_URL`; the key is X-User-ID, the limits are in LIMITS.
"""

import asyncio
import sys

import redis.asyncio as redis
import uvloop
from aiohttp import ClientSession, TCPConnector, web

SCRIPT = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local b = redis.call('HMGET', KEYS[1], 'tokens', 'ts')
local tokens = math.min(burst, (tonumber(b[1]) or burst) + math.max(0, now - (tonumber(b[2]) or now)) * rate)
if tokens < 1 then return -math.ceil((1 - tokens) / rate) end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens - 1), 'ts', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(burst / rate * 1000) + 1000)
return math.floor(tokens - 1)
"""
# By path: tokens a second, which is the burst, too.
LIMITS = {"/wide": 1_000_000, "/tight": 1}
HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length"}


async def main(port: int, upstream: str, redis_url: str) -> None:
    """Serve on a port of 127.0.0.1 until killed."""
    session = ClientSession(connector=TCPConnector(limit=256), auto_decompress=False)
    # redis-py opens 100 connections at most by default, and fails the requests beyond.
    store = redis.from_url(redis_url, max_connections=1024)
    decide = store.register_script(SCRIPT)

    async def handle(request: web.Request) -> web.StreamResponse:
        rate = LIMITS[request.path]
        key = f"plain:{request.path}:{request.headers.get('X-User-ID', '')}"
        left = int(await decide(keys=[key], args=[rate, rate]))
        if left < 0:
            return web.json_response({"error": "rate_limit_exceeded"}, status=429, headers={"Retry-After": str(-left)})
        fields = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
        fields.append(("X-Forwarded-For", request.remote or ""))
        body = await request.read() if request.can_read_body else None
        async with session.request(request.method, upstream + request.path_qs, headers=fields, data=body) as answer:
            kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP]
            kept.append(("X-RateLimit-Remaining", str(left)))
            response = web.StreamResponse(status=answer.status, headers=dict(kept))
            response.content_length = answer.content_length
            await response.prepare(request)
            async for data in answer.content.iter_any():
                await response.write(data)
            await response.write_eof()
            return response

    runner = web.ServerRunner(web.Server(handle), access_log=None)  # type: ignore[arg-type]  # any stream response will do
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *sys.argv[2:4]))
