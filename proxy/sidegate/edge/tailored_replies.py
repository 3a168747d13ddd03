"""The sidecar's own answers if custom pages or CORS are configured; otherwise edge/replies makes them."""

from collections.abc import Mapping

from sidegate.config import ResponseSettings
from sidegate.decision.verdict import Verdict
from sidegate.edge.error_pages import ErrorPages, PageFacts
from sidegate.edge.failures import Failure
from sidegate.edge.heads import RequestHead
from sidegate.edge.rate_limit_fields import RateLimitFields
from sidegate.edge.replies import (
    UNAVAILABLE_RETRY_S,
    failure_parts,
    joined,
    page,
    refusal_parts,
    reply_head,
    retry_after_s,
)

# Fields of our answers that a script may read only where the answer says so.
_EXPOSED = "Retry-After, RateLimit, RateLimit-Policy, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"


class TailoredReplies:
    """See the module's text. `id_header` names the field of request ids, or is empty."""

    def __init__(self, settings: ResponseSettings, fields: RateLimitFields, id_header: str) -> None:
        self._status = settings.status
        self._fields = fields
        self._pages = ErrorPages(settings.pages)
        self._origins = settings.cors.browser_origins
        self._any_origin = "*" in settings.cors.origins
        exposed = f"Access-Control-Expose-Headers: {_EXPOSED}{', ' + id_header if id_header else ''}\r\n"
        credentials = "Access-Control-Allow-Credentials: true\r\n" if settings.cors.credentials else ""
        self._cors = (exposed + credentials).encode()
        varies = [*(["Origin"] if self._origins else []), *(["Accept"] if settings.pages else [])]
        self._vary = f"Vary: {', '.join(varies)}\r\n".encode()

    def refusal(self, verdict: Verdict, head: RequestHead, request_id: str, last_lines: bytes) -> bytes:
        """The answer to a refused request. `last_lines` are whole lines, or empty."""
        retry_s, policies = retry_after_s(verdict), verdict.refusing
        filled = self._pages.of(self._status, head.get("Accept"), PageFacts(retry_s, policies, request_id))
        if filled is None:
            first, body = refusal_parts(policies, self._status)
        else:
            first, body = reply_head(self._status, filled.content_type, len(filled.body)), filled.body
        ours = b"%bRetry-After: %d\r\n%b" % (self._fields.of(verdict), retry_s, self._browser_lines(head))
        return joined(first, ours + last_lines, body, head.method == "HEAD")

    def failure(self, failure: Failure, head: RequestHead, request_id: str, last_lines: bytes) -> bytes:
        """The answer to a failure."""
        status, first, body = failure.status, *failure_parts(failure)
        retry_s = UNAVAILABLE_RETRY_S if status == 503 else None
        filled = self._pages.of(status, head.get("Accept"), PageFacts(retry_s, (), request_id))
        if filled is not None:
            first, body = reply_head(status, filled.content_type, len(filled.body)), filled.body
            first += b"" if retry_s is None else b"Retry-After: %d\r\n" % retry_s
        return joined(first, self._browser_lines(head) + last_lines, body, head.method == "HEAD")

    def page(self, status: int, content: Mapping[str, object], head: RequestHead, last_lines: bytes) -> bytes:
        """A page of the sidecar: its health, or the caller's status."""
        lines = self._browser_lines(head) + last_lines
        return page(status, content, head_only=head.method == "HEAD", connection=lines)

    def _browser_lines(self, head: RequestHead) -> bytes:
        """The lines for browsers: Vary, and the CORS fields for an origin that is allowed."""
        origin = self._origins.allowed(head) if self._origins is not None else ""
        if not origin:
            return self._vary
        allowed = b"*" if self._any_origin else origin.encode()
        return b"%bAccess-Control-Allow-Origin: %b\r\n%b" % (self._vary, allowed, self._cors)


def tailored_replies(settings: ResponseSettings, fields: RateLimitFields, id_header: str) -> TailoredReplies | None:
    """The answers of a configuration; None where they are the plain ones."""
    return TailoredReplies(settings, fields, id_header) if settings.pages or settings.cors.origins else None
