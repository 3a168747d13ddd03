"""Sidegate: a sidecar reverse proxy that enforces distributed rate limits. See docs/architecture.md."""

from importlib.machinery import PathFinder, SourceFileLoader

__version__ = "0.1.0"


def build() -> str:
    """`compiled` if the modules on a request's path are extension modules (hatch_build.py), else `pure Python`."""
    spec = PathFinder.find_spec("bucket", [f"{__path__[0]}/decision"])
    return "pure Python" if spec is None or isinstance(spec.loader, SourceFileLoader) else "compiled"
