"""Sidegate: a sidecar reverse proxy that enforces distributed rate limits. docs/architecture.md is the map."""

__version__ = "0.1.0"
