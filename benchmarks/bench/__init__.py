"""Benchmarks: the cost of a request, compared with peers, and how it grows. `python -m benchmarks.bench`."""
