"""What loads and measures a running demonstration."""
