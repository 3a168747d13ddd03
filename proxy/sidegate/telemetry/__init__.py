"""Metrics, logs and traces of requests and of the sidecar's state."""
