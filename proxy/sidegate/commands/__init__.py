"""The commands beside `run`: check and explain a configuration, replay an access log, query running sidecars."""
