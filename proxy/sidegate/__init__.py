"""Sidegate: a sidecar reverse proxy that enforces distributed rate limits. See docs/architecture.md."""

__version__ = "0.1.0"
