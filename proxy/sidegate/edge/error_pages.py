"""Own pages: chosen by the request's Accept field (RFC 9110 §12.5.1), and filled in."""

import html
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from sidegate.config import PagesByType, PageTemplate

# A longer Accept field is not read: no browser sends one.
LONGEST_ACCEPT_CHARS = 1024
MOST_RANGES = 32

_RANGE = re.compile(r"\s*([^;,\s]+)\s*(?:;[^,]*?\bq=([01](?:\.[0-9]{1,3})?)[^,]*|;[^,]*)?")


class PageFacts(NamedTuple):
    """What a page can show: `retry_after_s` is None where the answer does not say when to come back."""

    retry_after_s: int | None
    policies: tuple[str, ...]
    request_id: str


class FilledPage(NamedTuple):
    """A page's media type and body."""

    content_type: bytes
    body: bytes


class ErrorPages:
    """The pages of a configuration by status."""

    def __init__(self, pages: Mapping[int, PagesByType]) -> None:
        self._pages = pages

    def of(self, status: int, accept: str, facts: PageFacts) -> FilledPage | None:
        """The page for an answer; None where problem+json is right: there is no page, or none that is accepted."""
        pages = self._pages.get(status)
        if pages is None:
            return None
        # A client that prefers nothing is no browser, and gets JSON.
        if pages.html is not None and quality(accept, "text/html") > quality(accept, "application/json"):
            return FilledPage(b"text/html; charset=utf-8", _filled(pages.html, _in_html(facts)))
        if pages.json is not None:
            return FilledPage(b"application/json", _filled(pages.json, _in_json(facts)))
        return None


def quality(accept: str, media_type: str) -> float:
    """How much an Accept field wants a type, from 0 to 1; the most specific range that names it decides."""
    return _quality(accept, media_type) if 0 < len(accept) <= LONGEST_ACCEPT_CHARS else 1.0


@lru_cache(1024)
def _quality(accept: str, media_type: str) -> float:
    group = media_type.partition("/")[0] + "/*"
    found: dict[str, float] = {}
    for text in accept.lower().split(",", MOST_RANGES)[:MOST_RANGES]:
        if match := _RANGE.match(text):
            found.setdefault(match[1], float(match[2] or 1))
    return next((found[name] for name in (media_type, group, "*/*") if name in found), 0.0)


def _filled(template: PageTemplate, values: Mapping[str, str]) -> bytes:
    text = "".join(values[part] if odd % 2 else part for odd, part in enumerate(template.parts))
    return text.encode("utf-8", "replace")


def _in_html(facts: PageFacts) -> Mapping[str, str]:
    return {
        "retry_after_s": "" if facts.retry_after_s is None else str(facts.retry_after_s),
        "policies": html.escape(", ".join(facts.policies)),
        "request_id": html.escape(facts.request_id),
    }


def _in_json(facts: PageFacts) -> Mapping[str, str]:
    return {name: json.dumps(value) for name, value in facts._asdict().items()}
