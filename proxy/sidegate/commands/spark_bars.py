"""A row of bars in one line of text."""

from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.:-=+*#"


def spark_bars(values: Sequence[float], blocks: str = BLOCKS) -> str:
    """One block per value, of a height relative to the highest; a space for 0, the lowest block for a little."""
    highest = max(values, default=0)
    return "".join(blocks[int(-(-value * len(blocks) // highest)) - 1] if value else " " for value in values)
