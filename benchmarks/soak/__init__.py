"""A long run under mixed traffic: no unexpected answer, no growth. `python -m benchmarks.soak SECONDS`."""
