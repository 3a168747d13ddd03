"""What an operator sees: logs, metrics, health, the admin listener."""
