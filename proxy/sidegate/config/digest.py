"""A hash of the part of a configuration that decides limits."""

from hashlib import blake2b

from sidegate.config.model import Settings

_DECIDES: dict[str, bool | set[str]] = {
    "store": {"key_prefix", "on_failure", "replicas"},
    "client_ip": True,
    "policies": True,
}


def digest(settings: Settings) -> str:
    """12 hex digits over every setting that decides a limit: sidecars with equal digests decide alike.

    Ports, addresses, passwords and what is logged are left out: they differ between sidecars of one fleet.
    """
    text = settings.model_dump_json(by_alias=True, include=_DECIDES)
    return blake2b(text.encode(), digest_size=6).hexdigest()
