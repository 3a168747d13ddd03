"""Redis Cluster: one node for each slot range, and requests whose buckets lie in several slots."""
