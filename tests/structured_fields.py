"""Parses structured fields (RFC 9651) strictly."""

from typing import Any

import http_sf

Parameters = dict[str, Any]


def items_of(value: str) -> list[tuple[str, Parameters]]:
    """Members of a list of strings, each with its parameters. Raises ValueError for invalid syntax."""
    parsed: Any = http_sf.parse(value.encode(), tltype="list")
    assert all(isinstance(name, str) and isinstance(parameters, dict) for name, parameters in parsed)
    return [(name, parameters) for name, parameters in parsed]
