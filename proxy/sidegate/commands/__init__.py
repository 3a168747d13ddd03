"""The commands: run the sidecar, check and explain a configuration, replay an access log, query running sidecars."""
