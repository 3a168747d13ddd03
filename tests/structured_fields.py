"""Structured fields (RFC 9651) as a strict parser reads them."""

from typing import Any

import http_sf

Parameters = dict[str, Any]


def items_of(value: str) -> list[tuple[str, Parameters]]:
    """The members of a field that is a list of strings, each with its parameters. Raises ValueError where it is not."""
    parsed: Any = http_sf.parse(value.encode(), tltype="list")
    assert all(isinstance(name, str) and isinstance(parameters, dict) for name, parameters in parsed)
    return [(name, parameters) for name, parameters in parsed]
