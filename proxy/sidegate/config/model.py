"""The whole configuration, and the checks across its sections."""

from collections.abc import Mapping, Sequence

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from sidegate.config import addresses
from sidegate.config.faults import Path, Wrong, quote
from sidegate.config.lists import Many
from sidegate.config.overlap import unreachable
from sidegate.config.policies import PolicySettings
from sidegate.config.response_settings import ResponseSettings
from sidegate.config.section import Live, Section
from sidegate.config.sections import (
    AdminSettings,
    ClientIpSettings,
    ListenSettings,
    LogSettings,
    TracingSettings,
    UpstreamSettings,
)
from sidegate.config.store_settings import StoreSettings


class Settings(Section):
    """The whole configuration."""

    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)

    listen: ListenSettings = Field(ListenSettings(), description="The listener for clients, and what one may use.")
    admin: AdminSettings = Field(AdminSettings(), description="The listener for operators and probes.")
    upstream: UpstreamSettings = Field(UpstreamSettings(), description="The application behind the sidecar.")
    store: StoreSettings = Field(StoreSettings(), description="The Redis or Valkey that all sidecars share.")
    client_ip: ClientIpSettings = Field(ClientIpSettings(), description="How the address of a client is found.")
    responses: ResponseSettings = Field(ResponseSettings(), description="Rate-limit fields; the sidecar's own answers.")
    log: LogSettings = Field(LogSettings(), description="The log on stdout.")
    tracing: TracingSettings = Field(
        TracingSettings(), description="Where spans of requests and store calls are sent; needs sidegate[otel]."
    )
    policies: Live[Many[PolicySettings]] = Field(
        (), description="The limits: which requests, whose bucket, how much. Every policy that matches applies."
    )

    @property
    def origins(self) -> Mapping[str, str]:
        """The origin of each setting by its path, such as `listen.port`; empty for settings made in code."""
        return self._origins

    def set_origins(self, found: Mapping[str, str]) -> None:
        """Note the origins; for the reader of a configuration."""
        self._origins = found

    @field_validator("admin")
    @classmethod
    def _listens_apart(cls, admin: AdminSettings, info: ValidationInfo) -> AdminSettings:
        listen: ListenSettings | None = info.data.get("listen")
        if listen and admin.port and admin.port == listen.port and _overlaps(listen, admin.host):
            raise Wrong([(("port",), f"{admin.port} is the port of listen too; expected another")])
        return admin

    @field_validator("upstream")
    @classmethod
    def _is_another(cls, upstream: UpstreamSettings, info: ValidationInfo) -> UpstreamSettings:
        listen: ListenSettings | None = info.data.get("listen")
        url = upstream.url
        is_self = listen and (
            (bool(url.socket) and url.socket == listen.socket)
            or (
                not url.socket
                and url.port == listen.port
                and addresses.is_loopback(url.host)
                and _overlaps(listen, url.host)
            )
        )
        if is_self:
            raise Wrong([(("url",), f"'{upstream.url}' is this sidecar itself; expected the application's port")])
        return upstream

    @field_validator("policies")
    @classmethod
    def _all_reachable(cls, policies: tuple[PolicySettings, ...]) -> tuple[PolicySettings, ...]:
        if faults := repeated_names([policy.name for policy in policies]) + unreachable(policies):
            raise Wrong(faults)
        return policies


def _overlaps(listen: ListenSettings, host: str) -> bool:
    """Whether the sidecar listens at this host, on TCP."""
    return listen.socket is None and any(addresses.overlap(each, host) for each in listen.host)


def repeated_names(names: Sequence[object]) -> list[tuple[Path, str]]:
    """Faults of policies that have the name of an earlier one, with paths below the list of policies."""
    seen: set[str] = set()
    faults: list[tuple[Path, str]] = []
    for index, name in enumerate(names):
        if isinstance(name, str) and name in seen:
            faults.append(((index, "name"), f"{quote(name)} is the name of an earlier policy"))
        elif isinstance(name, str):
            seen.add(name)
    return faults
