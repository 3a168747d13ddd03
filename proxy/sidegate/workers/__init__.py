"""Several worker processes on one port, with one parent that starts and restarts them."""
