"""Typed scalars of a document: null, truth values and numbers. All other text stays text, as in YAML 1.2.

A number or truth value whose usual spelling is another one (`+1`, `1.10`, `True`) keeps its text in `as_written`, so
that a message shows what stands in the file.
"""

import re

_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    "true": True,
    "false": False,
}
_OTHER_FLAGS = {**dict.fromkeys(("True", "TRUE"), True), **dict.fromkeys(("False", "FALSE"), False)}
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,30})")
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,30})\.[0-9]{1,30}(?:[eE][-+]?[0-9]{1,3})?")


class WrittenWhole(int):
    """A whole number with another spelling than Python's."""

    as_written: str


class WrittenDecimal(float):
    """A decimal number with another spelling than Python's."""

    as_written: str


class WrittenFlag(int):
    """A truth value that is not written `true` or `false`. No bool, since no class can extend that."""

    as_written: str


# What a setting that takes a number refuses, although it is an int in Python.
FLAG_TYPES = (bool, WrittenFlag)


def typed(text: str) -> bool | int | float | str | None:
    """The value of a scalar without quotes."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text in _OTHER_FLAGS:
        flag = WrittenFlag(_OTHER_FLAGS[text])
        flag.as_written = text
        return flag
    if text[0] not in "0123456789+-":
        return text
    if _WHOLE.fullmatch(text):
        whole = WrittenWhole(text)
        whole.as_written = text
        return whole if str(int(whole)) != text else int(whole)
    if _DECIMAL.fullmatch(text):
        decimal = WrittenDecimal(text)
        decimal.as_written = text
        return decimal if str(float(decimal)) != text else float(decimal)
    return text
