"""Rules on names, sizes and language that hold for the whole package. Each exception is listed with its reason.

Imports are held by test_layering.py. The rules stand here and not in a linter's settings because no linter knows them.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import sidegate

PACKAGE = Path(sidegate.__file__).parent
REPOSITORY = PACKAGE.parent.parent

# -- exceptions: name or path (a glob) → reason ------------------------------------------------------------------------

SHARED_MODULE_NAMES: dict[str, str] = {}
SHARED_TYPE_NAMES: dict[str, str] = {}
LONG_MODULES: dict[str, str] = {}
LARGE_CLASSES = {
    "edge.client.ClientConnection": "one state machine; its socket, requests and readers are modules of their own",
    "edge.exchange.Exchange": "one state machine between two connections; framing of bodies is in upload and download",
    "edge.pending_request.PendingRequest": "one state machine; its wait, pages, exchange and answers are other modules",
    "edge.runtime.Runtime": "one record that the app fills in; its members have the behaviour",
    "edge.upstream.UpstreamConnection": "one state machine; its deadlines and reader are modules of their own",
    "config.sections.UpstreamSettings": "one YAML section; each field is one key",
    "config.sections.ListenSettings": "one YAML section; each field is one key",
}
PHRASE_FILES = {
    "tests/test_house.py": "names the phrases",
}

# -- the rules --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bounds:
    """Upper bounds of one room: lines of a module and of a class, attributes that instances of a class have."""

    module_lines: int = 300
    class_lines: int = 200
    attributes: int = 15


BOUNDS = Bounds()
EDGE_BOUNDS = Bounds(class_lines=150, attributes=12)  # its classes hold sockets and states: smaller is easier to verify

# Phrases that hide who does what. Between two words may stand a line break with a comment mark.
PHRASES = ("told of", "is told", "is asked", "hears of", "whoever", "of its like", "what is meant")
PHRASE = re.compile(r"\b(?:" + "|".join(PHRASES).replace(" ", r"\s+(?:(?:#|//|--|\*)\s*)?") + r")\b", re.IGNORECASE)
TEXT_ROOTS = ("proxy", "upstream_app", "benchmarks", "deploy", "docs", "tests", ".ci")
TEXT_SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".lua", ".js", ".html", ".css", ".service", ""}


@dataclass(frozen=True, slots=True)
class Module:
    """A parsed module of the package; `name` is dotted and begins below the package: `store.redis.node`."""

    name: str
    text: str
    tree: ast.Module

    @property
    def bounds(self) -> Bounds:
        return EDGE_BOUNDS if self.name.partition(".")[0] == "edge" else BOUNDS


def parsed(name: str, text: str) -> Module:
    return Module(name, text, ast.parse(text))


def package_modules() -> list[Module]:
    return [
        parsed(".".join(path.relative_to(PACKAGE).with_suffix("").parts), path.read_text("utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def type_names(module: Module) -> Iterator[str]:
    """Names of classes at any depth, and of the module's type aliases; a leading underscore does not count."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            yield node.name.lstrip("_")
    for statement in module.tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name, value = statement.targets[0].id.lstrip("_"), statement.value
            if re.fullmatch(r"(?=.*[a-z])[A-Z][A-Za-z0-9]*", name) and not isinstance(value, ast.Constant):
                yield name


def shared(names: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """From pairs of a name and its place: names with more than one place, and those places."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, place in names:
        places[name].append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


def with_places(names: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    return ((name, ", ".join(places)) for name, places in names.items())


def class_size(node: ast.ClassDef) -> tuple[int, int]:
    """Lines of a class, and how many attributes its instances have: annotated fields, slots, assignments to `self`."""
    attributes = {
        statement.target.id
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and "ClassVar" not in ast.unparse(statement.annotation)
    }
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and ast.unparse(inner.value) == "self":
            attributes.add(inner.attr)
    return (node.end_lineno or node.lineno) - node.lineno + 1, len(attributes)


def large_classes(module: Module) -> Iterator[tuple[str, str]]:
    """Name of each class over its room's bounds, and a sentence with its size."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            lines, attributes = class_size(node)
            if lines > module.bounds.class_lines or attributes > module.bounds.attributes:
                yield f"{module.name}.{node.name}", f"{lines} lines, {attributes} attributes"


def long_modules(modules: Iterable[Module]) -> Iterator[tuple[str, str]]:
    """Name of each module over its room's bounds, and a sentence with its size."""
    for module in modules:
        lines = module.text.count("\n")
        if lines > module.bounds.module_lines:
            yield module.name, f"{lines} lines"


def text_files() -> Iterator[Path]:
    """Code and documents of the repository, without what programs wrote and what is not checked in."""
    yield from (path for path in REPOSITORY.iterdir() if path.is_file() and path.suffix in TEXT_SUFFIXES)
    for root in TEXT_ROOTS:
        for path in (REPOSITORY / root).rglob("*"):
            if path.is_file() and path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts:
                yield path


def phrases(text: str) -> Iterator[tuple[int, str]]:
    """Line and wording of each stumbling phrase."""
    for match in PHRASE.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, " ".join(match[0].split())


def complaints(found: Iterable[tuple[str, str]], exceptions: Iterable[str]) -> dict[str, str]:
    """What is found and not excepted, and exceptions that match nothing any more."""
    all_found = list(found)
    unused = {each for each in exceptions if not any(fnmatchcase(name, each) for name, _ in all_found)}
    wrong = {name: what for name, what in all_found if not any(fnmatchcase(name, each) for each in exceptions)}
    return wrong | dict.fromkeys(sorted(unused), "this exception is no longer needed: remove it")


# -- the package keeps the rules ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    return package_modules()


def test_no_two_modules_share_a_name(modules: list[Module]) -> None:
    names = shared((module.name.rpartition(".")[2], module.name) for module in modules)
    names.pop("__init__")
    assert complaints(with_places(names), SHARED_MODULE_NAMES) == {}


def test_no_two_types_share_a_name(modules: list[Module]) -> None:
    names = shared((name, module.name) for module in modules for name in type_names(module))
    assert complaints(with_places(names), SHARED_TYPE_NAMES) == {}


def test_no_module_is_longer_than_its_rooms_bound(modules: list[Module]) -> None:
    assert complaints(long_modules(modules), LONG_MODULES) == {}


def test_no_class_is_larger_than_its_rooms_bound(modules: list[Module]) -> None:
    assert complaints((each for module in modules for each in large_classes(module)), LARGE_CLASSES) == {}


def test_no_stumbling_phrase_stands_in_code_or_documents() -> None:
    found = (
        (str(path.relative_to(REPOSITORY)), f"line {line}: {phrase}")
        for path in text_files()
        for line, phrase in phrases(path.read_text("utf-8"))
    )
    assert complaints(found, PHRASE_FILES) == {}


# -- the rules find what they are meant to find ------------------------------------------------------------------------


def test_an_exception_covers_what_it_matches_and_is_reported_once_it_matches_nothing() -> None:
    found = [("edge.pool", "301 lines"), ("store.node", "302 lines")]
    assert complaints(found, ["edge.*"]) == {"store.node": "302 lines"}
    assert complaints(found[:1], ["edge.*", "app"]) == {"app": "this exception is no longer needed: remove it"}


def test_a_type_name_is_found_as_a_class_at_any_depth_and_as_an_alias() -> None:
    module = parsed(
        "store.a", "class A:\n    class _B: pass\ndef f():\n    class C: pass\nDee = dict[str, int]\nE_F = 3\n"
    )
    assert sorted(type_names(module)) == ["A", "B", "C", "Dee"]


def test_shared_names_are_listed_with_their_places() -> None:
    assert shared([("Node", "store.a"), ("Page", "edge.b"), ("Node", "config.c")]) == {"Node": ["store.a", "config.c"]}


def test_a_class_counts_fields_and_what_its_methods_assign_to_self() -> None:
    source = (
        "class A:\n    x: int\n    y: ClassVar[int] = 1\n    def f(self):\n"
        "        self.z = self.x = 1\n        other.w = 2\n        self.v += 1\n"
    )
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    assert class_size(node) == (7, 3)


@pytest.mark.parametrize(
    ("room", "attributes", "too_large"),
    [("edge", 12, False), ("edge", 13, True), ("store", 15, False), ("store", 16, True)],
)
def test_the_edge_has_tighter_bounds_than_other_rooms(room: str, attributes: int, too_large: bool) -> None:
    source = "class A:\n" + "".join(f"    x{number}: int\n" for number in range(attributes))
    assert bool(list(large_classes(parsed(f"{room}.a", source)))) is too_large


def test_a_module_over_its_bound_is_named_with_its_length() -> None:
    assert list(long_modules([parsed("store.a", "x = 1\n" * 301), parsed("store.b", "x = 1\n" * 300)])) == [
        ("store.a", "301 lines")
    ]


@pytest.mark.parametrize("text", ["He is told.", "# what is\n# meant here", "Whoever asks", "who is\n    asked"])
def test_a_phrase_is_found_across_lines_and_cases(text: str) -> None:
    assert len(list(phrases(text))) == 1


def test_a_phrase_within_other_words_is_left_alone() -> None:
    assert list(phrases("This told offers; his toldness; what is meanter")) == []


# -- documents name what exists ----------------------------------------------------------------------------------------

DOCUMENTS_WITH_PATHS = ("CONTRIBUTING.md", "README.md", "docs/architecture.md", "docs/operations.md")
# A path in back-quotes or link brackets: of the repository, or of the package (`store/limiter.py`).
DOCUMENTED_PATH = re.compile(r"[`(]((?:[\w.-]+/)+[\w.-]+\.(?:py|md|lua|yaml|yml|json|js|html|service))\b")


@pytest.mark.parametrize("document", DOCUMENTS_WITH_PATHS)
def test_files_that_a_document_names_exist(document: str) -> None:
    path = REPOSITORY / document
    names = set(DOCUMENTED_PATH.findall(path.read_text("utf-8")))
    assert names
    assert [
        name for name in sorted(names) if not any((root / name).exists() for root in (REPOSITORY, path.parent, PACKAGE))
    ] == []
