"""Origins whose pages may read the sidecar's answers, and their preflights (the Fetch standard's CORS protocol)."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sidegate.decision.request import Fields, RequestFacts

ANY_ORIGIN = "*"
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")

# A browser puts none of these into a preflight: it has no body and no credentials. The last three change the method
# that some applications run.
_NEVER_SENT = (
    *("content-length", "transfer-encoding", "authorization", "proxy-authorization", "cookie"),
    *("x-http-method-override", "x-http-method", "x-method-override"),
)
# Fields of every request of a browser: a policy that reads them makes no preflight suspect.
_OF_BROWSERS = frozenset({"host", "origin", "user-agent", "referer", "accept", "accept-language", "accept-encoding"})


@dataclass(frozen=True, slots=True)
class BrowserOrigins:
    """The origins, each as a browser writes it: `https://app.example.com`; ANY_ORIGIN stands for all."""

    origins: frozenset[str]

    def allowed(self, fields: Fields) -> str:
        """The origin of a request, where it is one of these; else empty."""
        found: Sequence[str] = fields.getall("Origin", ())
        if len(found) != 1:
            return ""
        return found[0] if found[0] in self.origins or ANY_ORIGIN in self.origins else ""

    def is_preflight(self, facts: RequestFacts, deciding: Collection[str]) -> bool:
        """Whether a request is a preflight as a browser sends it: OPTIONS with Origin and the method it asks for.

        One with anything else that could matter to an application or to a limit is none. `deciding`: fields (lower
        case) that policies read; a preflight never carries fields that a script sets.
        """
        fields = facts.fields
        if facts.method != "OPTIONS" or not self.allowed(fields):
            return False
        asked = fields.getall("Access-Control-Request-Method", ())
        if len(asked) != 1 or not _METHOD.fullmatch(asked[0]):
            return False
        suspect = {*_NEVER_SENT, *deciding} - _OF_BROWSERS
        return not any(fields.getall(name, ()) for name in suspect)
