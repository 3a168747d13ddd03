"""The admin listener: health, metrics, API and dashboard for operators."""
