"""The demonstration application. It stands behind a sidecar and knows nothing of rate limits."""
