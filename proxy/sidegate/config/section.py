"""The base class of all sections of the configuration, and the mark of settings that a reload applies."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict

Setting = TypeVar("Setting")


class Section(BaseModel):
    """A mapping of the configuration. Rejects unknown keys and values of another type; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LiveMark:
    """Marks a setting that a reload applies at once; all others take effect at the next start."""


Live = Annotated[Setting, LiveMark()]
