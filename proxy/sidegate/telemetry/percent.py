"""A share as text."""


def percent(share: float) -> str:
    """A share for people: whole percents, one decimal below 10 %; never 0 or 100 unless it is exactly that."""
    value = share * 100
    if value in (0, 100):
        return f"{value:.0f} %"
    if value < 10:
        return f"{max(value, 0.1):.1f} %"
    return f"{min(value, 99.9):.1f} %" if value > 99 else f"{int(value + 0.5)} %"
