"""Permissions of a file in the configuration."""

import re
from typing import Annotated

from sidegate.config.faults import quote
from sidegate.config.scalars import FLAG_TYPES
from sidegate.config.values import ValueKind


class FileMode(ValueKind):
    """Permissions of a file as octal digits: 660."""

    def __init__(self) -> None:
        super().__init__(
            {
                "anyOf": [
                    {"type": "integer", "minimum": 0, "maximum": 777},
                    {"type": "string", "pattern": "^0?[0-7]{3}$"},
                ]
            }
        )

    def read(self, value: object) -> int:
        text = str(getattr(value, "as_written", value))
        if isinstance(value, FLAG_TYPES) or not re.fullmatch("0?[0-7]{3}", text):
            raise ValueError(f"{quote(value)} is not a file mode; expected three octal digits, e.g. 660")
        return int(text, 8)

    def write(self, value: int) -> str:
        return f"{value:03o}"


SocketMode = Annotated[int, FileMode()]
