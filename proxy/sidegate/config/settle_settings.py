"""The key `settle` of a policy: how answers settle the cost that their requests hold."""

import re
from typing import Annotated, Self

from pydantic import Field, model_validator

from sidegate.config.faults import Path, Wrong, quote
from sidegate.config.keys import TOKEN
from sidegate.config.lists import OneOrListOf
from sidegate.config.section import Section
from sidegate.config.values import CheckedText, Flag, ValueKind

# Fields of an answer that frame it, or that concern one connection: they are never a cost.
_NO_COST = frozenset({"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
_CLASS = re.compile(r"[1-5]xx")


def _header(text: str) -> str:
    if not TOKEN.fullmatch(text) or text.lower() in _NO_COST:
        raise ValueError(f"{quote(text)} is not a field that can hold a cost; expected e.g. X-Tokens-Used")
    return text


def _json_path(text: str) -> str:
    if not re.fullmatch(r"[^.\s]{1,64}(\.[^.\s]{1,64}){0,7}", text):
        raise ValueError(f"{quote(text)} is not a path of keys; expected e.g. usage.total_tokens")
    return text


class StatusList(ValueKind):
    """Statuses, and classes of statuses: 401, 5xx."""

    def __init__(self) -> None:
        one = {
            "anyOf": [{"type": "integer", "minimum": 100, "maximum": 599}, {"type": "string", "pattern": "^[1-5]xx$"}]
        }
        super().__init__(
            {"anyOf": [*one["anyOf"], {"type": "array", "items": one, "minItems": 1}], "examples": [[401, "5xx"]]}
        )

    def read(self, value: object) -> tuple[str, ...]:
        if value == []:
            raise ValueError("the list is empty; expected e.g. [401, 403]")
        faults: list[tuple[Path, str]] = []
        found: list[str] = []
        for index, entry in enumerate(OneOrListOf().entries(value)):
            text = str(entry).lower()
            is_status = not isinstance(entry, bool) and text.isascii() and text.isdigit() and 100 <= int(text) <= 599
            if is_status or _CLASS.fullmatch(text):
                found.append(text)
            else:
                message = f"{quote(entry)} is not a status; expected 100 to 599, or a class, e.g. 5xx"
                faults.append(((index,) if isinstance(value, list) else (), message))
        if faults:
            raise Wrong(faults)
        return tuple(found)

    def write(self, value: tuple[str, ...]) -> object:
        return [int(each) if each.isdigit() else each for each in value]


class SettleSettings(Section):
    """What of an answer decides the final cost. Until then the cost is held."""

    when: Annotated[tuple[str, ...], StatusList()] = Field(
        (), description="The statuses, and classes as 5xx, that keep the cost; all others give it back."
    )
    header: Annotated[str, CheckedText(_header, pattern=f"^{TOKEN.pattern}$")] | None = Field(
        None, description="The field of the answer with the final cost, a whole number; removed from the answer."
    )
    keep: Flag = Field(False, description="Whether the field reaches the client.")
    json_path: Annotated[str, CheckedText(_json_path, examples=["usage.total_tokens"])] | None = Field(
        None, alias="json", description="The path of the final cost in the JSON body, or in an event of a stream."
    )

    @property
    def statuses(self) -> frozenset[int]:
        """All statuses that keep the cost."""
        found: set[int] = set()
        for each in self.when:
            found.update(range(int(each[0]) * 100, int(each[0]) * 100 + 100) if each.endswith("xx") else (int(each),))
        return frozenset(found)

    @model_validator(mode="after")
    def _is_one_rule(self) -> Self:
        if bool(self.when) + (self.header is not None) + (self.json_path is not None) != 1:
            raise ValueError("expected exactly one of when, header and json, e.g. settle: {when: [401, 403]}")
        if self.keep and self.header is None:
            raise ValueError("keep goes with header; this settle has none")
        return self
