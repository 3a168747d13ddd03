"""Several processes on one port, for machines with several cores: one parent, and workers that are whole sidecars."""
