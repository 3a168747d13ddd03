"""What a request to the admin API asks for, read strictly: everything else is answered 400 with a sentence."""

import re
from ipaddress import ip_address
from typing import Annotated, Any

from aiohttp import web
from multidict import CIMultiDict
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sidegate.admin.access import Problem
from sidegate.admin.openapi import FIELD_PATTERN, METHOD_PATTERN, TARGET_PATTERN, VALUE_PATTERN
from sidegate.decision.request import RequestFacts


def _text(pattern: str) -> Any:
    return StringConstraints(pattern=pattern, strict=True)


class Ask(BaseModel):
    """The body of `POST /explain`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Annotated[str, _text(METHOD_PATTERN)] = "GET"
    url: Annotated[str, _text(TARGET_PATTERN)]
    headers: Annotated[
        dict[Annotated[str, _text(FIELD_PATTERN)], Annotated[str, _text(VALUE_PATTERN)]], Field(max_length=64)
    ] = {}
    peer: Annotated[str, Field(strict=True)] = "127.0.0.1"
    live: Annotated[bool, Field(strict=True)] = False

    @property
    def facts(self) -> RequestFacts:
        """The request that is asked about."""
        return RequestFacts(self.method, self.url, CIMultiDict(self.headers), self.peer)


async def ask_of(request: web.Request) -> Ask:
    """The question of a request. Raises Problem."""
    if request.content_type != "application/json":
        raise Problem(415, "The body must be application/json, and say so.")
    try:
        ask = Ask.model_validate_json(await request.read())
        _ = ip_address(ask.peer)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        raise Problem(400, f"{place}: {first['msg']}") from None
    except ValueError:
        raise Problem(400, "peer: is no IP address") from None
    return ask


def whole(request: web.Request, name: str, default: int, most: int) -> int:
    """A whole number of the query, from 1 to `most`. Raises Problem."""
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise Problem(400, f"{name}: expected a whole number from 1 to {most}")
    return int(text)


def matching(name: str, text: str, pattern: str) -> str:
    """A text of the query or the path that must look like this. Raises Problem."""
    if not re.fullmatch(pattern.removeprefix("^").removesuffix("$"), text):
        raise Problem(400, f"{name}: expected {pattern}")
    return text
