"""Commands that query running sidecars over their admin listeners."""
