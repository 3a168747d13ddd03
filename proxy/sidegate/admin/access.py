"""Who may use the admin listener, and what a browser may do with its pages.

Without a token the listener is on loopback (the configuration refuses anything else), so whoever reaches it is on this
machine, or is a page in a browser on it. Against the second stand the Host check (a name that was made to point to
127.0.0.1 is not accepted), the Origin check, and that nothing is changed by GET. With a token, the token decides.
"""

import hmac
import logging
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import orjson
from aiohttp import hdrs, web

from sidegate.decision.stored import StoreSilent

# Probes and scrapes show no token and use any name; these pages tell of no key and change nothing.
OPEN = frozenset({"/livez", "/readyz", "/metrics"})
# The dashboard itself holds nothing of ours: what it shows it asks for, with the token.
SHELL = frozenset({"/", "/static/dashboard.css", "/static/dashboard.js", "/static/icon.svg"})

SECURITY_FIELDS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

logger = logging.getLogger(__name__)


class Problem(Exception):
    """A request that is answered with a fault: problem+json (RFC 9457)."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def json_answer(content: object, status: int = 200) -> web.Response:
    """A JSON document. What cannot be written as UTF-8 (lone surrogates of odd paths) is escaped."""
    try:
        body = orjson.dumps(content)
    except TypeError:
        body = orjson.dumps(escaped(content))
    return web.Response(body=body + b"\n", status=status, content_type="application/json")


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> web.Response:
    """A fault's answer."""
    title = web.Response(status=status).reason
    body = orjson.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}) + b"\n"
    return web.Response(body=body, status=status, content_type="application/problem+json", headers=headers)


class Guard:
    """The middleware around every page."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def install(self, application: web.Application) -> None:
        """Stand before all pages of an application."""

        @web.middleware
        async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._around(request, handler)

        application.middlewares.append(around)
        application.on_response_prepare.append(_add_security_fields)

    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._admit(request)
            return await handler(request)
        except Problem as error:
            fields = {"WWW-Authenticate": 'Bearer realm="sidegate"'} if error.status == 401 else None
            return problem(error.status, str(error), fields)
        except StoreSilent as error:
            return problem(503, f"The store does not answer: {error}")
        except web.HTTPException as error:
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            return problem(error.status, f"{request.method} {request.path}: {error.reason}", allow)
        except Exception:  # the boundary of one request
            logger.exception("an admin page could not be made")
            return problem(500, "This page could not be made; the log says why.")

    def _admit(self, request: web.Request) -> None:
        if request.path in OPEN:
            return
        if not self._token and not is_local(request.headers.get(hdrs.HOST, "")):
            raise Problem(403, "The Host field must name this machine: localhost or a loopback address.")
        if request.method not in ("GET", "HEAD") and not _same_origin(request):
            raise Problem(403, "Pages of other origins may change nothing here.")
        if self._token and request.path not in SHELL:
            kind, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
            right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token)
            if kind.lower() != "bearer" or not right:
                raise Problem(401, "The bearer token of admin.token is needed.")


def is_local(host: str) -> bool:
    """Whether a Host field names this machine."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def _same_origin(request: web.Request) -> bool:
    origin = request.headers.get(hdrs.ORIGIN)
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    return origin is None or origin.partition("://")[2] == request.headers.get(hdrs.HOST)


async def _add_security_fields(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in SECURITY_FIELDS.items():
        response.headers.setdefault(name, value)


def escaped(content: object) -> object:
    """The same with lone surrogates escaped, so that it can be written as UTF-8."""
    if isinstance(content, str):
        return content.encode("utf-8", "backslashreplace").decode()
    if isinstance(content, dict):
        return {escaped(key): escaped(value) for key, value in content.items()}
    return [escaped(each) for each in content] if isinstance(content, list | tuple) else content
