"""Faults of documents that are not YAML, with their usual cause."""

import yaml

from sidegate.config.faults import ConfigFault

# The usual cause of each message of the parser.
_HINTS = {
    "mapping values are not allowed": "; text that holds a colon and a space needs quotes",
    "expected '-' indicator": "; lines that belong together begin in the same column",
    "expected <block end>": "; lines that belong together begin in the same column",
    "while parsing a block": "; lines that belong together begin in the same column",
    "while parsing a flow node": "; inside { } and [ ], text with one of , : * & ! needs quotes",
    "while scanning an alias": "; text that begins with * needs quotes",
    "while scanning an anchor": "; text that begins with & needs quotes",
    "expected ',' or": "; a bracket is not closed, or text with a comma or a brace needs quotes",
}


def fault_of(error: yaml.MarkedYAMLError, name: str, text: str) -> ConfigFault:
    """The fault for an error of the parser in `text`."""
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    message = f"is not valid YAML: {error.problem or 'it cannot be read'}"
    if error.context:
        message += f" {error.context}"
    lines = text.splitlines()[line - 1 : line]
    if any(found.startswith("\t") or "\t" in found[: len(found) - len(found.lstrip())] for found in lines):
        message += "; indent with spaces, not with tabs"
    elif any("${" in found for found in lines):
        message += "; inside { } and [ ], write ${...} in quotes"
    else:
        message += next((hint for sign, hint in _HINTS.items() if sign in message), "")
    return ConfigFault(name, line, column, "", message)
