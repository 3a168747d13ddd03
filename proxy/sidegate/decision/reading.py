"""A gauge or counter that its owner declares: the object that holds a value also names and documents its metric."""

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Reading(NamedTuple):
    """One metric, read at each scrape.

    `name` comes without the prefix `sidegate_` and, for a counter, without `_total`. `read` returns the value; with a
    `label`, it returns values by that label's value.
    """

    name: str
    help: str
    read: Callable[[], float | Mapping[str, float]]
    label: str = ""
    is_counter: bool = False
