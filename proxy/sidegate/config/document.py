"""Reads a YAML document into plain values, and keeps the place of each.

Built from the parser's events, not by a constructor: a document cannot create objects, its depth and its number of
nodes are bounded while reading, and the line and column of every key and value are known. `on`, `1:30`, `0123` and
dates are text, as in YAML 1.2 (see scalars).
"""

import re
from collections.abc import Mapping

import yaml

from sidegate.config.environment import substitute
from sidegate.config.faults import MAX_FAULTS, ConfigError, ConfigFault, Path, in_order, quote, written
from sidegate.config.scalars import typed
from sidegate.config.yaml_errors import fault_of

# Bounds against documents that are small but expand without end (aliases of aliases) or nest too deeply.
MAX_DOCUMENT_BYTES = 4 * 2**20
MAX_NODES = 60_000
MAX_DEPTH = 50
MAX_KEYS = 1000

_Loader: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TEXT_TAGS = (None, "!", "tag:yaml.org,2002:str")
MERGE_KEY = "<<"
_NO_MERGE = "merge keys (<<) are not supported; write the settings out, or use &name and *name for a whole value"
# No key, method or field name contains these.
_BROKEN_KEY = re.compile(r"[\s:]")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Line and column, from 1.
DocumentPlace = tuple[int, int]
Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]


class DocumentNode:
    """One value and its place. `below` holds its children: by index, or by key together with the key's place."""

    __slots__ = ("below", "height", "place", "plain", "size")

    def __init__(self, place: DocumentPlace, plain: Plain) -> None:
        self.place = place
        self.plain = plain
        self.below: list[DocumentNode] | dict[str, tuple[DocumentPlace, DocumentNode]] | None = None
        # The number of values in it and below; a value below an alias counts each time.
        self.size = 1
        self.height = 0

    def adopt(self, node: "DocumentNode") -> None:
        self.size += node.size
        self.height = max(self.height, node.height + 1)


class Document:
    """A document as read: `plain` is its content, `faults` are the faults of single values in it.

    `anchored` holds the paths of values with an anchor. `is_cut`: it ends inside a value, without a line end, as a file
    does that was copied in part.
    """

    def __init__(self, name: str, root: DocumentNode | None, reader: "_Reader") -> None:
        self.name = name
        self.faults = dict(reader.faults)
        self.anchored = frozenset(reader.anchored)
        self.is_cut = reader.is_cut
        self._root = root

    @property
    def is_empty(self) -> bool:
        return self._root is None

    @property
    def plain(self) -> Plain:
        return {} if self._root is None else self._root.plain

    def holds(self, path: Path) -> bool:
        """Whether there is a value at `path`."""
        plain = self.plain
        for step in path:
            if isinstance(plain, dict) and step in plain:
                plain = plain[str(step)]
            elif isinstance(plain, list) and isinstance(step, int) and step < len(plain):
                plain = plain[step]
            else:
                return False
        return True

    def fault(self, path: Path, message: str, *, at_key: bool = False) -> ConfigFault:
        """A fault of the value at `path`, or of its key; where there is no such value, of the nearest one above."""
        place, known = (1, 1), path
        node = self._root
        if node is not None:
            place = node.place
        for depth, step in enumerate(path):
            below = None if node is None else node.below
            if isinstance(below, dict) and isinstance(step, str) and step in below:
                key_place, node = below[step]
                place = key_place if at_key and depth == len(path) - 1 else node.place
            elif isinstance(below, list) and isinstance(step, int) and step < len(below):
                node = below[step]
                place = node.place
            else:
                # The model reads `path: /a` as `path: [/a]`, so the index 0 has no place of its own.
                known = path[:depth] if isinstance(step, int) else path
                break
        return ConfigFault(self.name, *place, written(known), message)


def read(text: str, name: str, environ: Mapping[str, str]) -> Document:
    """Read a document. Raises ConfigError where it has no usable structure."""
    if len(text) > MAX_DOCUMENT_BYTES or len(text.encode("utf-8", "replace")) > MAX_DOCUMENT_BYTES:
        raise ConfigError([ConfigFault(name, 1, 1, "", f"is larger than {MAX_DOCUMENT_BYTES // 2**20} MiB")])
    if stray := _UNPRINTABLE.search(text):
        line, column = text.count("\n", 0, stray.start()) + 1, stray.start() - text.rfind("\n", 0, stray.start())
        message = f"is not valid YAML: the character U+{ord(stray[0]):04X} is not allowed in a document"
        raise ConfigError([ConfigFault(name, line, column, "", message)])
    reader = _Reader(text, name, environ)
    try:
        root = reader.document()
    except yaml.MarkedYAMLError as error:
        raise ConfigError([fault_of(error, name, text)]) from None
    except yaml.YAMLError as error:
        raise ConfigError([ConfigFault(name, 1, 1, "", f"is not valid YAML: {quote(str(error))}")]) from None
    finally:
        reader.close()
    return Document(name, root, reader)


class _Reader:
    def __init__(self, text: str, name: str, environ: Mapping[str, str]) -> None:
        self._loader = _Loader(text)
        self._name = name
        self._environ = environ
        self._anchors: dict[str, DocumentNode | None] = {}
        self._size = 0
        self.anchored: set[Path] = set()
        self.is_cut = False
        # Where an unquoted value would end that has no line end after it.
        self._cut_at = None if text.endswith(("\n", "\r")) else len(text)
        self.faults: dict[Path, ConfigFault] = {}

    def close(self) -> None:
        self._loader.dispose()

    def document(self) -> DocumentNode | None:
        self._next()
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        root = self._node(self._next(), ())
        self._next()
        after = self._next()
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._fatal(after, "a second document begins here; expected one document")
        if root.plain is None:
            return None
        if not isinstance(root.plain, dict):
            kind = "a list" if isinstance(root.plain, list) else "a single value"
            message = f"the configuration is {kind}; expected a mapping, e.g. policies: [...]"
            raise ConfigError([ConfigFault(self._name, *root.place, "", message)])
        return root

    def _next(self) -> yaml.Event:
        event: yaml.Event = self._loader.get_event()  # type: ignore[assignment]  # None only after the stream's end
        return event

    def _node(self, event: yaml.Event, path: Path) -> DocumentNode:
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event, path)
        self._size += 1
        if self._size > MAX_NODES:
            raise self._fatal(event, f"the document holds more than {MAX_NODES} values")
        if len(path) > MAX_DEPTH:
            raise self._fatal(event, f"the document is nested deeper than {MAX_DEPTH} levels")
        anchor: str | None = event.anchor  # type: ignore[attr-defined]
        if anchor is not None:
            self.anchored.add(path)
            self._anchors[anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, path)
        else:
            node = self._mapping(event, path) if isinstance(event, yaml.MappingStartEvent) else self._list(event, path)
            if event.tag not in (None, "!"):  # type: ignore[attr-defined]
                self._note(path, node.place, "has a YAML tag; tags are not supported")
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _aliased(self, event: yaml.AliasEvent, path: Path) -> DocumentNode:
        # The name is left out: an unquoted password may begin with the sign of an alias.
        if event.anchor not in self._anchors:
            raise self._fatal(event, "this alias (*) has no anchor (&) before it; text that begins with * needs quotes")
        node = self._anchors[event.anchor]
        if node is None:
            raise self._fatal(event, "this alias (*) is inside the value that it refers to")
        self._size += node.size
        if self._size > MAX_NODES:
            raise self._fatal(event, f"the document holds more than {MAX_NODES} values, counted through aliases")
        if len(path) + node.height > MAX_DEPTH:
            raise self._fatal(event, f"the document is nested deeper than {MAX_DEPTH} levels, counted through aliases")
        return node

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> DocumentNode:
        text: str = event.value
        node = DocumentNode(_place(event), text)
        if event.end_mark and event.end_mark.index == self._cut_at and event.style not in ("'", '"'):
            self.is_cut = True
        if event.tag not in _TEXT_TAGS:
            self._note(
                path,
                node.place,
                "has a YAML tag; tags are not supported, and text that begins with ! needs quotes",
            )
        elif "${" in text:
            node.plain, faults = substitute(text, self._environ)
            if faults:
                self._note(path, node.place, "; ".join(faults))
        elif event.implicit[0] and event.tag is None:
            node.plain = typed(text)
        return node

    def _list(self, event: yaml.Event, path: Path) -> DocumentNode:
        items: list[Plain] = []
        node = DocumentNode(_place(event), items)
        below: list[DocumentNode] = []
        node.below = below
        while not isinstance(entry := self._next(), yaml.SequenceEndEvent):
            place = (*path, len(items))
            item = self._node(entry, place)
            if item.plain is None:
                self._note(place, item.place, f"has no value{_as_text(entry)}")
            items.append(item.plain)
            below.append(item)
            node.adopt(item)
        return node

    def _mapping(self, event: yaml.Event, path: Path) -> DocumentNode:
        entries: dict[str, Plain] = {}
        node = DocumentNode(_place(event), entries)
        below: dict[str, tuple[DocumentPlace, DocumentNode]] = {}
        node.below = below
        while not isinstance(key_event := self._next(), yaml.MappingEndEvent):
            place = _place(key_event)
            if not isinstance(key_event, yaml.ScalarEvent):
                raise self._fatal(key_event, "a key must be plain text")
            if len(below) == MAX_KEYS:
                raise self._fatal(key_event, f"a mapping holds more than {MAX_KEYS} keys")
            key: str = key_event.value
            value_event = self._next()
            value = self._node(value_event, (*path, key))
            if key == MERGE_KEY and key_event.implicit[0]:
                self._note((*path, key), place, _NO_MERGE)
                continue
            if _BROKEN_KEY.search(key):
                # The key is left out: `{password:secret}` is one.
                message = "holds a key with a space or a colon in it; expected a colon and a space after each key"
                self._note((*path, key), place, message, shown_as=path)
                continue
            if key in below:
                first = below[key][0][0]
                message = f"the key {quote(key)} occurs twice; the first is in line {first}"
                self._note((*path, key), place, message)
                continue
            below[key] = (place, value)
            node.adopt(value)
            if value.plain is not None:
                entries[key] = value.plain
            elif path:
                # A section whose lines are all commented out has its defaults; a setting without a value is a mistake.
                entries[key] = None
                self._note(
                    (*path, key), value.place, f"has no value; leave the key out for the default{_as_text(value_event)}"
                )
        return node

    def _note(self, path: Path, place: DocumentPlace, message: str, *, shown_as: Path | None = None) -> None:
        if len(self.faults) == MAX_FAULTS:
            rest = ConfigFault(self._name, None, None, "", "and more; reading stopped here")
            raise ConfigError([*in_order(self.faults.values()), rest])
        fault = ConfigFault(self._name, *place, written(path if shown_as is None else shown_as), message)
        self.faults.setdefault(path, fault)

    def _fatal(self, event: yaml.Event, message: str) -> ConfigError:
        return ConfigError([ConfigFault(self._name, *_place(event), "", message)])


def _as_text(event: yaml.Event) -> str:
    """Advice for a text that YAML reads as null."""
    word = event.value if isinstance(event, yaml.ScalarEvent) else ""
    return f"; the text {word} needs quotes: '{word}'" if word else ""


def _place(event: yaml.Event) -> DocumentPlace:
    mark = event.start_mark
    assert mark is not None  # noqa: S101  (every event of the parser has a mark)
    return mark.line + 1, mark.column + 1
