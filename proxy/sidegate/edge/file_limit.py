"""File descriptors: each connection takes one, and a process may have only so many."""

import resource

# What the sidecar opens beside its connections: the store's, the admin listener and its clients, pipes, the event loop.
OWN_DESCRIPTORS = 64


def raise_file_limit(connections: int) -> int:
    """Let this process have so many connections if it may, and return how many it can have.

    Distributions set the soft limit to 1024 for the sake of programs that use select(2); we do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OWN_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == resource.RLIM_INFINITY else max(0, soft - OWN_DESCRIPTORS)
