"""HTTP/1.1 in, HTTP/1.1 out: the client's connection, the upstream's connections, and the answers in between."""
