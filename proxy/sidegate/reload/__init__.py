"""Applies edits of the configuration and of the files that it names to the running sidecar."""
