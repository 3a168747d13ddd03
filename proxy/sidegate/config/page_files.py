"""Own pages for the sidecar's answers: files by status and media type, read and checked with the configuration.

A page holds placeholders, which the answer fills in: `{retry_after_s}`, `{policies}` and `{request_id}`. In a JSON page
each stands for a whole value: a number or null, a list of texts, and a text.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from sidegate.config.faults import Path, Wrong, quote
from sidegate.config.file_signature import NamedFiles, signature_of
from sidegate.config.values import read_text

# A page is held in memory and sent to every refused client.
MOST_PAGE_BYTES = 64 * 1024
PLACEHOLDERS = ("retry_after_s", "policies", "request_id")
# Statuses of answers that the sidecar makes itself; `responses.status` may add one.
OWN_STATUSES = (400, 408, 413, 417, 429, 431, 500, 501, 502, 503, 504, 505)

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SAMPLES = {"retry_after_s": "1", "policies": '["a"]', "request_id": '"a"'}


class PageTemplate(NamedTuple):
    """A page: its file's name as it was written, and its text."""

    file: str
    text: str

    @property
    def parts(self) -> list[str]:
        """The text between placeholders at even positions, the names of placeholders at odd ones."""
        return _PLACEHOLDER.split(self.text)


class PagesByType(NamedTuple):
    """The pages of one status."""

    html: PageTemplate | None = None
    json: PageTemplate | None = None


class FileContext(NamedTuple):
    """What validation knows of files: the folder of relative names; files that were read are added to `named`."""

    folder: FilePath
    named: NamedFiles


class PageFiles:
    """Reads `{429: {html: FILE, json: FILE}}`. Names are relative to the folder of the configuration file."""

    schema: Mapping[str, Any] = {
        "type": "object",
        "propertyNames": {"pattern": "^[45][0-9]{2}$"},
        "additionalProperties": {
            "type": "object",
            "properties": {"html": {"type": "string"}, "json": {"type": "string"}},
            "additionalProperties": False,
            "minProperties": 1,
        },
        "examples": [{"429": {"html": "pages/429.html", "json": "pages/429.json"}}],
    }

    def read(self, value: object, info: ValidationInfo) -> dict[int, PagesByType]:
        """The pages by status. Raises Wrong with every fault."""
        context: FileContext = info.context or FileContext(FilePath(), {})
        if not isinstance(value, dict):
            raise ValueError(f"{quote(value)} is no mapping; expected e.g. {{429: {{html: pages/429.html}}}}")  # noqa: TRY004
        pages: dict[int, PagesByType] = {}
        faults: list[tuple[Path, str]] = []
        for status, written in value.items():
            found: dict[str, PageTemplate] = {}
            for path, page in _entries(status, written, faults):
                try:
                    found[path[-1]] = _template(read_text(page), path[-1], context)
                except ValueError as error:
                    faults.append((path, str(error)))
            if found:
                pages[int(status)] = PagesByType(**found)
        if faults:
            raise Wrong(faults)
        return pages

    def write(self, value: Mapping[int, PagesByType]) -> object:
        """The pages as a document holds them."""
        return {
            str(status): {kind: page.file for kind, page in pages._asdict().items() if page is not None}
            for status, pages in value.items()
        }

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        write = core_schema.plain_serializer_function_ser_schema(self.write, when_used="json")
        return core_schema.with_info_plain_validator_function(self.read, serialization=write)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)


def _entries(status: str, written: object, faults: list[tuple[Path, str]]) -> Iterator[tuple[tuple[str, str], object]]:
    """Path and value of each page of a status; what is no page is added to `faults`."""
    if not re.fullmatch("[45][0-9]{2}", status):
        faults.append(((status,), f"{quote(status)} is no status of an error; expected e.g. 429, 503"))
    elif not isinstance(written, dict) or not written:
        faults.append(((status,), f"{quote(written)} is no mapping; expected e.g. {{html: pages/{status}.html}}"))
    else:
        for kind, page in written.items():
            if kind in PagesByType._fields:
                yield (status, kind), page
            else:
                faults.append(((status, kind), f"{quote(kind)} is not a kind of page; expected html or json"))


def _template(name: str, kind: str, context: FileContext) -> PageTemplate:
    path = context.folder / name
    context.named.setdefault(path, None)
    try:
        with path.open("rb") as file:
            context.named[path] = context.named[path] or signature_of(os.fstat(file.fileno()))
            raw = file.read(MOST_PAGE_BYTES + 1)
        text = raw.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{quote(name)} is not UTF-8; save the file as UTF-8") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ValueError(f"{quote(name)} cannot be read: {reason or error}") from None
    if len(raw) > MOST_PAGE_BYTES:
        raise ValueError(f"{quote(name)} is larger than {MOST_PAGE_BYTES // 1024} KiB; expected a smaller page")
    template = PageTemplate(name, text)
    for unknown in template.parts[1::2]:
        if unknown not in PLACEHOLDERS:
            known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
            raise ValueError(f"{quote(name)} has the placeholder {{{unknown}}}; expected {known}")
    if kind == "json":
        filled = "".join(_SAMPLES[part] if odd % 2 else part for odd, part in enumerate(template.parts))
        try:
            json.loads(filled)
        except ValueError as error:
            raise ValueError(
                f"{quote(name)} is not JSON once its placeholders are filled in ({error}); each stands for a whole "
                "value: {policies} for a list, {request_id} for a text with its quotes"
            ) from None
    return template
