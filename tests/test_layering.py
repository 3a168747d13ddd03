"""The rooms of the package and the imports allowed between them.

decision ← config ← {store, edge, telemetry, admin, reload, workers} ← app ← commands ← cli
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import sidegate

PACKAGE = Path(sidegate.__file__).parent

# Each room and the rooms below it. `sidegate` itself is not listed: it has the version and imports nothing.
BELOW = {
    "decision": set[str](),
    "adjustable": set[str](),
    "config": {"decision", "adjustable"},
    "store": {"decision", "config"},
    "edge": {"decision", "config"},
    "telemetry": {"decision", "config"},
    "admin": {"decision", "config", "telemetry"},
    "reload": {"decision", "config"},
    "workers": {"decision", "config", "telemetry"},
    "app": {"adjustable", "decision", "config", "store", "edge", "telemetry", "admin", "reload", "workers"},
    "commands": {"adjustable", "decision", "config", "store", "edge", "telemetry", "admin", "reload", "workers", "app"},
    "cli": {"decision", "config", "store", "edge", "telemetry", "admin", "reload", "workers", "app", "commands"},
    "__main__": {"cli"},
}

# Modules that a pure room must not import: event loops and threads, networks, clocks, randomness, files, logs.
IMPURE = {
    *("asyncio", "concurrent", "threading", "multiprocessing", "selectors", "signal", "subprocess"),
    *("aiohttp", "redis", "hiredis", "socket", "ssl", "http", "uvloop"),
    *("time", "datetime", "random", "secrets", "uuid"),
    *("os", "io", "pathlib", "shutil", "tempfile", "glob", "importlib", "sys"),
    *("logging", "structlog", "prometheus_client"),
}

# aiohttp's engine below its framework may change between minor versions, so one module adapts it.
ENGINE = ("aiohttp.http", "aiohttp.base_protocol", "aiohttp.http_exceptions", "aiohttp.streams")
ENGINE_ROOM = "sidegate.edge.engine"


def imported(source: str, module: str, is_package: bool = False) -> set[str]:
    """Dotted names that a module imports, at any depth, with relative imports resolved."""
    names: set[str] = set()
    here = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            names.update(f"{origin}.{alias.name}" for alias in node.names)
    return names


def violations(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Forbidden imports and file accesses of a module, one sentence each."""
    room = room_of(module)
    for name in sorted(imported(source, module, is_package)):
        other = room_of(name)
        if other and other != room and other not in BELOW.get(room, set()):
            yield f"{module} imports {name}, but {room or 'the package itself'} is not above {other}"
        if room == "decision" and name.partition(".")[0] in IMPURE:
            yield f"{module} imports {name}, but decision is pure"
        if module != ENGINE_ROOM and any(name == part or name.startswith(f"{part}.") for part in ENGINE):
            yield f"{module} imports {name}, which only {ENGINE_ROOM} adapts"
    if room == "decision" and any(is_open(node) for node in ast.walk(ast.parse(source))):
        yield f"{module} opens a file, but decision is pure"


def room_of(name: str) -> str:
    """The room of a module or of a name in it; empty outside the package and for the package itself."""
    root, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    return room if root == "sidegate" and room in BELOW else ""


def is_open(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"open", "__import__"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_every_module_imports_only_from_its_own_room_and_those_below(path: Path) -> None:
    assert list(violations(path.read_text("utf-8"), name_of(path), path.name == "__init__.py")) == []


def test_every_module_is_in_a_known_room() -> None:
    assert {name_of(path) for path in modules() if not room_of(name_of(path))} == {"sidegate"}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("sidegate.decision.policy", "import asyncio", "decision is pure"),
        ("sidegate.decision.policy", "import aiohttp.web", "decision is pure"),
        ("sidegate.decision.policy", "from redis.asyncio import Redis", "decision is pure"),
        ("sidegate.decision.policy", "import logging", "decision is pure"),
        ("sidegate.decision.policy", "def late() -> None:\n    from time import monotonic", "decision is pure"),
        ("sidegate.decision.policy", "from pathlib import Path", "decision is pure"),
        ("sidegate.decision.policy", "text = open('limits').read()", "opens a file"),
        ("sidegate.decision.policy", "from sidegate.config import Settings", "decision is not above config"),
        ("sidegate.decision.policy", "from sidegate import config", "decision is not above config"),
        ("sidegate.config", "from sidegate.store.limiter import Limiter", "config is not above store"),
        ("sidegate.store.limiter", "from sidegate.telemetry.metrics import Metrics", "store is not above telemetry"),
        ("sidegate.store.limiter", "from sidegate.edge import engine", "store is not above edge"),
        ("sidegate.store.limiter", "from ..edge.engine import Body", "store is not above edge"),
        ("sidegate.store.limiter", "from .. import telemetry", "store is not above telemetry"),
        ("sidegate.edge.server", "import sidegate.store.limiter", "edge is not above store"),
        ("sidegate.edge.server", "from sidegate.telemetry import logs", "edge is not above telemetry"),
        ("sidegate.telemetry.metrics", "from sidegate.store import limiter", "telemetry is not above store"),
        ("sidegate.telemetry.metrics", "from sidegate.edge import server", "telemetry is not above edge"),
        ("sidegate.telemetry.metrics", "from sidegate.app import App", "telemetry is not above app"),
        ("sidegate.app", "from sidegate.cli import main", "app is not above cli"),
        ("sidegate", "from sidegate.cli import main", "the package itself is not above cli"),
        ("sidegate.edge.server", "from aiohttp.http import HttpRequestParser", "only sidegate.edge.engine adapts"),
        ("sidegate.edge.server", "from aiohttp import streams", "only sidegate.edge.engine adapts"),
        ("sidegate.edge.server", "import aiohttp.base_protocol", "only sidegate.edge.engine adapts"),
        (
            "sidegate.admin.listener",
            "from aiohttp.http_exceptions import HttpProcessingError",
            "only sidegate.edge.engine adapts",
        ),
    ],
)
def test_an_import_of_a_higher_room_is_reported(module: str, source: str, complaint: str) -> None:
    (found,) = violations(source, module)
    assert complaint in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sidegate.decision.policy", "import re\nfrom sidegate.decision.bucket import Limit\nfrom . import request"),
        ("sidegate.config", "from pathlib import Path\nfrom sidegate.decision.policy import Policy"),
        (
            "sidegate.store.limiter",
            "import asyncio\nimport logging\nfrom sidegate.decision import bucket\nfrom .batch import Batch",
        ),
        ("sidegate.edge.engine", "from aiohttp.http import HttpRequestParser\nfrom aiohttp import streams"),
        ("sidegate.admin.listener", "from aiohttp import web\nfrom aiohttp.http_websocket import WSMessage"),
        ("sidegate.app", "from sidegate.store.limiter import Limiter\nfrom sidegate.edge import server"),
        ("sidegate.cli", "import sidegate\nfrom sidegate import app, config"),
    ],
)
def test_an_import_of_a_lower_room_is_accepted(module: str, source: str) -> None:
    assert list(violations(source, module)) == []
