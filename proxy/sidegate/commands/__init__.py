"""Commands that look at a configuration from outside a running sidecar: explain one request, simulate a whole log."""
