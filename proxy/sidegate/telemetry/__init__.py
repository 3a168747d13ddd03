"""Metrics, logs and traces of requests, store calls and the sidecar's state."""
