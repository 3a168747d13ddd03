"""`${NAME}` and `${NAME:-default}` in a scalar of the configuration.

Substitution happens inside one scalar after the document's structure is known, so the value of a variable can never add
a key, a list or a comment. `${NAME:-default}` takes the default where the variable is unset or empty, as a shell does.
`$${` is a literal `${`. Keys are never replaced.
"""

import re
from collections.abc import Mapping

# A default ends before another `${`; this also keeps the time linear for a text that repeats `${`.
_REFERENCE = re.compile(r"\$\$\{|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-(?:[^$}]|\$(?!\{))*+)?\})?")
# Bounds the length of the message for one scalar.
_MAX_FAULTS = 5


class Substituted(str):
    """Text in which references were replaced. Readers convert it to the type of the setting.

    `variables` names the environment variables whose values are in it; none where all references had their defaults.
    """

    __slots__ = ("variables",)
    variables: tuple[str, ...]


def substitute(text: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """The text with all references replaced, and messages for the first references that cannot be."""
    pieces: list[str] = []
    faults: list[str] = []
    variables: list[str] = []
    replaced, end = False, 0
    for reference in _REFERENCE.finditer(text):
        if len(faults) == _MAX_FAULTS:
            break
        name, default = reference["name"], reference["default"]
        pieces.append(text[end : reference.start()])
        end = reference.end()
        if reference[0] == "$${":
            pieces.append("${")
        elif name is None:
            faults.append("holds a broken ${; expected ${NAME} or ${NAME:-default}, or $${ for the characters ${")
        elif default is None and name not in environ:
            faults.append(
                f"the environment variable {name[:64]} is not set; set it, or write ${{{name[:64]}:-default}}"
            )
        else:
            replaced = True
            if value := environ.get(name, ""):
                variables.append(name)
            pieces.append(value or (default or "")[2:])
    result = "".join(pieces) + text[end:]
    if replaced:
        result = Substituted(result)
        result.variables = tuple(dict.fromkeys(variables))
    return result, list(dict.fromkeys(faults))
