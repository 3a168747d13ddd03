"""The rooms of the product, and who may import whom: decision ← config ← {store, edge, ops} ← app ← cli.

Beside the middle rooms stand `reload`, which watches the configuration, and `workers`, which keeps several processes;
between app and cli the commands.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxy

PACKAGE = Path(proxy.__file__).parent

# Each room and the rooms below it. What is not named here (`proxy` itself) holds the version and imports nothing.
BELOW = {
    "decision": set[str](),
    "config": {"decision"},
    "store": {"decision", "config"},
    "edge": {"decision", "config"},
    "ops": {"decision", "config"},
    "reload": {"decision", "config"},
    "workers": {"decision", "config", "ops"},
    "app": {"decision", "config", "store", "edge", "ops", "reload", "workers"},
    "commands": {"decision", "config", "store", "edge", "ops", "reload", "workers", "app"},
    "cli": {"decision", "config", "store", "edge", "ops", "reload", "workers", "app", "commands"},
    "__main__": {"cli"},
}

# What a pure room must not know: event loops and threads, networks, clocks, chance, files, logs.
IMPURE = {
    *("asyncio", "concurrent", "threading", "multiprocessing", "selectors", "signal", "subprocess"),
    *("aiohttp", "redis", "hiredis", "socket", "ssl", "http", "uvloop"),
    *("time", "datetime", "random", "secrets", "uuid"),
    *("os", "io", "pathlib", "shutil", "tempfile", "glob", "importlib", "sys"),
    *("logging", "structlog", "prometheus_client"),
}

# aiohttp's engine below its framework: these names may move between minor versions, so one module adapts them.
ENGINE = ("aiohttp.http", "aiohttp.base_protocol", "aiohttp.http_exceptions", "aiohttp.streams")
ENGINE_ROOM = "proxy.edge.wire"


def imported(source: str, module: str, is_package: bool = False) -> set[str]:
    """Dotted names that a module's source imports, at its top or anywhere within, relative ones resolved."""
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
    """What a module imports or opens and must not, one sentence each."""
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
    """The room of a module or of something in it; empty for what is outside of the package or is the package itself."""
    root, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    return room if root == "proxy" and room in BELOW else ""


def is_open(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"open", "__import__"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_every_module_imports_only_from_its_own_room_and_those_below(path: Path) -> None:
    assert list(violations(path.read_text("utf-8"), name_of(path), path.name == "__init__.py")) == []


def test_every_module_stands_in_a_known_room() -> None:
    assert {name_of(path) for path in modules() if not room_of(name_of(path))} == {"proxy"}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("proxy.decision.policy", "import asyncio", "decision is pure"),
        ("proxy.decision.policy", "import aiohttp.web", "decision is pure"),
        ("proxy.decision.policy", "from redis.asyncio import Redis", "decision is pure"),
        ("proxy.decision.policy", "import logging", "decision is pure"),
        ("proxy.decision.policy", "def late() -> None:\n    from time import monotonic", "decision is pure"),
        ("proxy.decision.policy", "from pathlib import Path", "decision is pure"),
        ("proxy.decision.policy", "text = open('limits').read()", "opens a file"),
        ("proxy.decision.policy", "from proxy.config import Settings", "decision is not above config"),
        ("proxy.decision.policy", "from proxy import config", "decision is not above config"),
        ("proxy.config", "from proxy.store.limiter import Limiter", "config is not above store"),
        ("proxy.store.limiter", "from proxy.ops.metrics import Metrics", "store is not above ops"),
        ("proxy.store.limiter", "from proxy.edge import wire", "store is not above edge"),
        ("proxy.store.limiter", "from ..edge.wire import Body", "store is not above edge"),
        ("proxy.store.limiter", "from .. import ops", "store is not above ops"),
        ("proxy.edge.server", "import proxy.store.limiter", "edge is not above store"),
        ("proxy.edge.server", "from proxy.ops import logs", "edge is not above ops"),
        ("proxy.ops.metrics", "from proxy.store import limiter", "ops is not above store"),
        ("proxy.ops.metrics", "from proxy.edge import server", "ops is not above edge"),
        ("proxy.ops.metrics", "from proxy.app import App", "ops is not above app"),
        ("proxy.app", "from proxy.cli import main", "app is not above cli"),
        ("proxy", "from proxy.cli import main", "the package itself is not above cli"),
        ("proxy.edge.server", "from aiohttp.http import HttpRequestParser", "only proxy.edge.wire adapts"),
        ("proxy.edge.server", "from aiohttp import streams", "only proxy.edge.wire adapts"),
        ("proxy.edge.server", "import aiohttp.base_protocol", "only proxy.edge.wire adapts"),
        ("proxy.ops.admin", "from aiohttp.http_exceptions import HttpProcessingError", "only proxy.edge.wire adapts"),
    ],
)
def test_an_import_against_the_direction_is_found(module: str, source: str, complaint: str) -> None:
    (found,) = violations(source, module)
    assert complaint in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("proxy.decision.policy", "import re\nfrom proxy.decision.bucket import Limit\nfrom . import request"),
        ("proxy.config", "from pathlib import Path\nfrom proxy.decision.policy import Policy"),
        (
            "proxy.store.limiter",
            "import asyncio\nimport logging\nfrom proxy.decision import bucket\nfrom .batch import Batch",
        ),
        ("proxy.edge.wire", "from aiohttp.http import HttpRequestParser\nfrom aiohttp import streams"),
        ("proxy.ops.admin", "from aiohttp import web\nfrom aiohttp.http_websocket import WSMessage"),
        ("proxy.app", "from proxy.store.limiter import Limiter\nfrom proxy.edge import server"),
        ("proxy.cli", "import proxy\nfrom proxy import app, config"),
    ],
)
def test_an_import_with_the_direction_is_left_alone(module: str, source: str) -> None:
    assert list(violations(source, module)) == []
