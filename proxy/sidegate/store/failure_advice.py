"""What to do about a failure of the store, by its reason (`StoreUnavailable.reason`)."""

_ADVICE = {
    "connect": "start it, or correct store.url",
    "connection_lost": "start it, or see why it closes connections: its log, and maxclients",
    "timeout": "check the network, and what else uses the server: SLOWLOG GET",
    "noauth": "set store.password (REDIS_PASSWORD)",
    "wrongpass": "correct store.username and store.password (REDIS_PASSWORD)",
    "noperm": "give its user the rights that docs/operations.md lists",
    "wrong_role": "for a Sentinel write redis+sentinel://HOST:PORT/SERVICE",
    "readonly": "name the master, or use redis+sentinel://",
    "protocol": "correct store.url: another program answers there; TLS needs rediss://",
    "no_master": "correct the service at the end of store.url, or the Sentinels' credentials",
    "oom": "raise maxmemory, or set maxmemory-policy volatile-ttl",
    "loading": "wait until it has read its data",
    "busy": "end the script that it runs: SCRIPT KILL",
    "misconf": "free its disk: it cannot write its snapshot",
    "clusterdown": "see CLUSTER INFO: slots have no master",
}


def failure_advice(reason: str) -> str:
    """What to do, in a clause."""
    return _ADVICE.get(reason, "see its log")
