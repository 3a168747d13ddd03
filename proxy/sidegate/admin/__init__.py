"""The admin listener: health, metrics, configuration, buckets, explanations and the dashboard."""
