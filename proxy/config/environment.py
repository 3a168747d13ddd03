"""`${NAME}` and `${NAME:-default}` in a scalar of the configuration.

Substitution happens inside one scalar after the document's structure is known, so the value of a variable can never add
a key, a list or a comment. `${NAME:-default}` takes the default where the variable is unset or empty, as a shell does.
`$${` is a literal `${`. Keys are never replaced.
"""

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$\$\{|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\})?")


class Substituted(str):
    """Text that came from the environment, at least in part. It takes the type that is wanted where it stands."""

    __slots__ = ()


def substitute(text: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """The text with all references replaced, and what is wrong with those that cannot be."""
    faults: list[str] = []
    replaced = False

    def value(reference: re.Match[str]) -> str:
        nonlocal replaced
        name, default = reference["name"], reference["default"]
        if reference[0] == "$${":
            return "${"
        if name is None:
            faults.append("holds a broken ${; expected ${NAME} or ${NAME:-default}, or $${ for the characters ${")
        elif default is None and name not in environ:
            faults.append(f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
        elif default is not None and "${" in default:
            faults.append(f"the default of {name} holds another ${{; a default is plain text")
        else:
            replaced = True
            return environ.get(name, "") or (default or "")[2:]
        return ""

    result = _REFERENCE.sub(value, text)
    return (Substituted(result) if replaced else result), faults
