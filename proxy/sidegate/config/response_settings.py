"""The section `responses` of the configuration: rate-limit fields, and answers that the sidecar makes itself."""

import re
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sidegate.config import addresses
from sidegate.config.faults import Wrong, quote
from sidegate.config.lists import Many
from sidegate.config.page_files import OWN_STATUSES, PageFiles, PagesByType
from sidegate.config.section import Live, Section
from sidegate.config.values import CheckedText, Choice, Flag, ValueKind, WholeNumber
from sidegate.decision.browser import ANY_ORIGIN, BrowserOrigins

_ORIGIN = re.compile(rf"(https?)://({addresses.HOST})({addresses.PORT})", re.IGNORECASE)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
# Clients expect fields beside these statuses, or other meanings, that a refusal does not have.
_OTHER_MEANINGS = frozenset({401, 405, 407, 408, 411, 412, 413, 414, 415, 416, 417, 426, 431})


def _origin(text: str) -> str:
    """An origin as browsers write it: in lower case, without the default port."""
    if text == ANY_ORIGIN:
        return text
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise ValueError(f"{quote(text)} is not an origin; expected e.g. https://app.example.com, without a path, or *")
    scheme, host, port = (part.lower() for part in match.groups())
    return f"{scheme}://{host}{'' if port == _DEFAULT_PORTS[scheme] else port}"


class RefusalStatus(ValueKind):
    """The status of a refusal: 429, another 4xx that means nothing else, or 503."""

    def __init__(self) -> None:
        super().__init__({"anyOf": [{"type": "integer", "minimum": 400, "maximum": 499}, {"const": 503}]})
        self._number = WholeNumber(400, 599, "a status")

    def read(self, value: object) -> int:
        status = self._number.read(value)
        if status in _OTHER_MEANINGS or (status > 499 and status != 503):
            raise ValueError(f"{status} cannot mean that a limit is reached; expected 429, 403, another 4xx, or 503")
        return status


class CorsSettings(Section):
    """Origins whose pages may read the sidecar's own answers. Without one there are no CORS fields."""

    origins: Many[Annotated[str, CheckedText(_origin, examples=["https://app.example.com"])]] = Field(
        (), description="The origins, e.g. https://app.example.com; * for all."
    )
    credentials: Flag = Field(False, description="Whether requests with cookies may read answers too; not with *.")

    @field_validator("credentials")
    @classmethod
    def _names_origins(cls, credentials: bool, info: ValidationInfo) -> bool:
        if credentials and ANY_ORIGIN in info.data.get("origins", ()):
            raise ValueError("browsers allow no credentials with the origin *; expected origins by name")
        return credentials

    @property
    def browser_origins(self) -> BrowserOrigins | None:
        """The same origins for the decision; None where there are none."""
        return BrowserOrigins(frozenset(self.origins)) if self.origins else None


class ResponseSettings(Section):
    """The rate-limit fields of answers, and the answers that the sidecar makes itself."""

    headers: Live[Many[Annotated[str, Choice("ratelimit", "x-ratelimit")]]] = Field(
        ("ratelimit", "x-ratelimit"), description="RateLimit and RateLimit-Policy; X-RateLimit-*."
    )
    status: Live[Annotated[int, RefusalStatus()]] = Field(
        429, description="The status of a refused request: 429, another 4xx, or 503."
    )
    cors: Live[CorsSettings] = Field(
        CorsSettings(), description="Which pages in browsers may read the sidecar's own answers."
    )
    pages: Live[Annotated[Mapping[int, PagesByType], PageFiles()]] = Field(
        {}, description="Own pages by status: files of html and json, relative to the configuration file."
    )

    @model_validator(mode="after")
    def _has_used_pages(self) -> Self:
        statuses = sorted({self.status, *OWN_STATUSES} - ({429} if self.status != 429 else set()))
        unused = [status for status in self.pages if status not in statuses]
        if unused:
            expected = ", ".join(map(str, statuses))
            message = f"the sidecar makes no answer with this status; expected one of {expected}"
            raise Wrong([(("pages", str(status)), message) for status in unused])
        return self
