"""What a request may do, decided by pure functions: no I/O, no clock, no framework."""
