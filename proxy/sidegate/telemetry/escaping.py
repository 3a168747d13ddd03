"""Escapes text for the places it is written to: UTF-8 documents and terminals."""


def utf8_safe(text: str) -> str:
    """The text with lone surrogates (bytes that are not UTF-8) escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def utf8_safe_content(content: object) -> object:
    """A JSON document with every string made UTF-8 safe; tuples become lists."""
    if isinstance(content, str):
        return utf8_safe(content)
    if isinstance(content, dict):
        return {utf8_safe_content(key): utf8_safe_content(value) for key, value in content.items()}
    return [utf8_safe_content(each) for each in content] if isinstance(content, list | tuple) else content


def terminal_safe(text: str) -> str:
    """The text with control characters, which a terminal could execute, and lone surrogates escaped."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
