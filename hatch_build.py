"""Build hook of the wheel: if SIDEGATE_COMPILE=1, mypyc compiles the modules on a request's path.

The wheel then holds an extension module beside each compiled `.py` file, and Python imports the extension. The compiler
reads the types of all dependencies and needs a C compiler. An editable install is never compiled. The compiler works on
a copy, so that no extension module appears in the source tree.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.builders.wheel import WheelBuilderConfig

# Modules on a request's path. An entry is a file or a folder of the package.
COMPILED = (
    "decision",
    "edge",
    "store",
    *(f"telemetry/{name}.py" for name in ("escaping", "metrics", "observer")),
    *(f"telemetry/{name}.py" for name in ("outcomes", "recent_refusals", "request_log", "top_refused")),
)
# Modules and folders of these that stay Python, with the reason. No compiled module defines an exception: mypyc gives a
# name that two handlers of a coroutine use one type, and its exceptions have no sound weak references (docs/adr/0009).
PURE = {
    "decision/bad_request.py": "defines an exception",
    "decision/stored.py": "defines an exception; the admin listener uses it",
    "edge/arrival.py": "mypyc has no multiple assignment in a class body; it reads the first bytes of connections",
    "edge/engine.py": "defines an exception; all else in it is calls of C",
    "edge/failures.py": "defines exceptions",
    "edge/file_limit.py": "runs at the start",
    "edge/listening.py": "runs at the start",
    "edge/server.py": "accepts connections; `sockets` is a list in uvloop, a tuple in the types of asyncio",
    "edge/upstream_errors.py": "defines exceptions",
    "store/cluster": "a process crashed in its tests, see docs/adr/0009",
    "store/factory.py": "runs at the start",
    "store/housekeeping.py": "runs in the background",
    "store/probe.py": "runs in the background",
    "store/protocol.py": "defines exceptions",
    "store/redis/connector.py": "opens connections",
    "store/redis/handshake.py": "opens connections",
    "store/redis/inspect.py": "mypyc has no asynchronous generators; the admin listener uses it",
    "store/redis/inspect_client.py": "serves inspect.py alone",
    "store/redis/node.py": "a compiled object has no weak references, which store/cluster/give_back.py needs",
    "store/redis/switches.py": "runs in the background",
}
# Errors outside the compiled modules are those of `make check`, which has all packages.
_SETUP = """
import sys
from mypyc.build import mypycify
from setuptools import setup
extensions = mypycify(["--follow-imports=silent", *sys.argv[1].split(",")], opt_level="2", debug_level="0")
setup(name="sidegate", packages=[], ext_modules=extensions, script_args=["-q", "build_ext", "--inplace"])
"""


class CompileHook(BuildHookInterface[WheelBuilderConfig]):
    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        return ["mypy>=2", "setuptools", *self.metadata.core.dependencies] if is_wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and add the extension modules to the wheel. Raises RuntimeError where that cannot be done."""
        if version == "editable" or not is_wanted():
            return
        if missing := lacking():
            raise RuntimeError(f"SIDEGATE_COMPILE=1 needs {missing}")
        self._copy = tempfile.TemporaryDirectory(prefix="sidegate-compile-")  # ends with this object at the latest
        folder, root = Path(self._copy.name), Path(self.root)
        shutil.copytree(root / "proxy" / "sidegate", folder / "sidegate")
        arguments = [f"--config-file={root / 'pyproject.toml'}", *compiled_modules(folder)]
        if subprocess.run([sys.executable, "-c", _SETUP, ",".join(arguments)], cwd=folder, check=False).returncode:
            raise RuntimeError("the modules cannot be compiled, see above; SIDEGATE_COMPILE=0 builds pure Python")
        build_data["pure_python"], build_data["infer_tag"] = False, True
        extensions = [*folder.glob("*.so"), *(folder / "sidegate").rglob("*.so")]
        build_data["force_include"] |= {str(each): str(each.relative_to(folder)) for each in extensions}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        if hasattr(self, "_copy"):
            self._copy.cleanup()


def is_wanted() -> bool:
    value = os.environ.get("SIDEGATE_COMPILE", "")
    if value not in ("", "0", "1"):
        raise ValueError(f"SIDEGATE_COMPILE is {value!r}; 1 compiles, 0 does not")
    return value == "1"


def lacking() -> str:
    """What this machine lacks to compile; empty if nothing."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        return f"a C compiler: {compiler} is not installed (apt-get install gcc)"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return "" if header.exists() else f"Python's headers: there is no {header} (apt-get install python3-dev)"


def compiled_modules(folder: Path) -> list[str]:
    """The files to compile, relative to `folder`, which holds the package."""
    package = folder / "sidegate"
    files = [path for entry in COMPILED for path in sorted((package / entry).rglob("*.py")) or [package / entry]]
    names = {path.relative_to(package).as_posix() for path in files if path.name != "__init__.py"}
    return [f"sidegate/{name}" for name in sorted(names) if name not in PURE and name.rpartition("/")[0] not in PURE]
