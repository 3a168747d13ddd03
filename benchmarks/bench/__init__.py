"""What a request costs: Sidegate beside its peers, and how the cost grows. `python -m benchmarks.bench`."""
