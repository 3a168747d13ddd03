"""`sidegate doctor`: checks everything that a sidecar needs, and says what to do."""
