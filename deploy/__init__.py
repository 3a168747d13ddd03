"""What `make` calls: the two runtimes of the demonstration, Docker Compose and local processes."""
