"""Access control of the admin listener, and the security fields of its answers.

Without a token the listener is bound to loopback (the configuration rejects anything else): clients are processes on
this machine and web pages in a browser on it. Against web pages, the Host check rejects names that were made to resolve
to 127.0.0.1, the Origin check rejects other sites, and GET changes nothing. With a token, the token decides.
"""

import hmac
import logging
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from aiohttp import hdrs, web

from sidegate.admin.responses import Problem, problem_answer
from sidegate.decision.stored import StoreSilent

# Probes and scrapers send no token and use any host name; these pages contain no keys and change nothing.
OPEN = frozenset({"/livez", "/readyz", "/metrics"})
# Static files hold no data: the dashboard requests what it shows, with the token.
SHELL = frozenset(
    {"/", "/runbook", "/static/dashboard.css", "/static/dashboard.js", "/static/charts.js", "/static/icon.svg"}
)

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


class AccessControl:
    """Middleware that checks every request and turns exceptions into problems."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def install(self, application: web.Application) -> None:
        """Check all requests of an application."""

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
            return problem_answer(error.status, str(error), fields)
        except StoreSilent as error:
            return problem_answer(503, f"The store does not answer: {error}")
        except web.HTTPException as error:
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            return problem_answer(error.status, f"{request.method} {request.path}: {error.reason}", allow)
        except Exception:  # the boundary of one request
            logger.exception("admin_request_failed")
            return problem_answer(500, "Internal error; the log has a line admin_request_failed with the trace.")

    def _admit(self, request: web.Request) -> None:
        if request.path in OPEN:
            return
        if not self._token and not is_local(request.headers.get(hdrs.HOST, "")):
            raise Problem(403, "The Host field must name this machine: localhost or a loopback address.")
        if request.method not in ("GET", "HEAD") and not is_same_origin(request):
            raise Problem(403, "Requests from pages of other origins are not allowed.")
        if self._token and request.path not in SHELL:
            kind, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
            right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token)
            if kind.lower() != "bearer" or not right:
                raise Problem(401, "The bearer token of admin.token is required.")


def is_local(host: str) -> bool:
    """Whether a Host field names this machine."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def is_same_origin(request: web.Request) -> bool:
    """Whether a browser sent the request for a page of this listener; True for clients that are not browsers."""
    origin = request.headers.get(hdrs.ORIGIN)
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    return origin is None or origin.partition("://")[2] == request.headers.get(hdrs.HOST)


async def _add_security_fields(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in SECURITY_FIELDS.items():
        response.headers.setdefault(name, value)
