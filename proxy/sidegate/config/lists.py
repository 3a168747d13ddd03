"""Lists in the configuration, of bounded length, and single values in their place."""

import re
from typing import Annotated, Any, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from sidegate.config.faults import quote

Item = TypeVar("Item")

# Bounds lists whose entries are checked, and compared with each request, one by one.
MAX_ENTRIES = 1000


class ListOf:
    """A list of at most `most` entries, which may be empty."""

    def __init__(self, most: int | None = MAX_ENTRIES) -> None:
        self._most = most

    def entries(self, value: object) -> tuple[object, ...]:
        if not isinstance(value, list | tuple):
            single = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9./-]{1,40}", value)
            expected = f"[{value}]" if single else "e.g. [...]"
            raise ValueError(f"{quote(value)} is not a list; expected {expected} or lines that begin with a dash")  # noqa: TRY004
        if self._most is not None and len(value) > self._most:
            raise ValueError(f"the list has {len(value)} entries; expected {self._most} at most")
        return tuple(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.entries, handler(source))


class OneOrListOf(ListOf):
    """A list, or a single value in its place. Refuses an empty list, which would match nothing."""

    def entries(self, value: object) -> tuple[object, ...]:
        if value == []:
            raise ValueError("the list is empty; expected an entry, or leave the key out")
        return super().entries(value if isinstance(value, list | tuple) else [value])

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        entries = handler(core)
        return {"anyOf": [entries["items"], {**entries, "minItems": 1}]}


OneOrMore = Annotated[tuple[Item, ...], OneOrListOf()]
Many = Annotated[tuple[Item, ...], ListOf()]
