"""The section `store` of the configuration: the shared Redis or Valkey."""

from typing import Annotated, Any, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator

from sidegate.config import store_url
from sidegate.config.faults import Wrong
from sidegate.config.policies import FailureMode
from sidegate.config.section import Live, Section
from sidegate.config.store_url import StoreKind, StoreUrl
from sidegate.config.values import AnyText, CheckedText, FileName, Secret, Text, Timeout, WholeNumber

# Far more proxies than share one store.
MOST_REPLICAS = 100_000

# The settings that say who connects to the store, and not to which store.
CREDENTIALS = frozenset(
    {"username", "password", "sentinel_username", "sentinel_password", "ca_file", "cert_file", "key_file"}
)

KeyPrefix = Annotated[
    str,
    Text(r"[!-z|~]{0,64}", "a prefix; expected up to 64 printable characters without space, { and }"),
]


class StoreSettings(Section):
    """The Redis or Valkey that all sidecars share. Credentials in the URL are moved to `username` and `password`."""

    url: Annotated[StoreUrl, CheckedText(store_url.parse)] = Field(
        store_url.parse("redis://localhost:6379/0"),
        description="host:port, redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://.",
    )
    username: Live[AnyText] = Field("", description="The store's user.")
    password: Live[Secret] = Field(SecretStr(""), description="The user's password; best from the environment.")
    sentinel_username: Live[AnyText] = Field("", description="With redis+sentinel://: the user of the Sentinels.")
    sentinel_password: Live[Secret] = Field(
        SecretStr(""), description="With redis+sentinel://: the password of the Sentinels."
    )
    ca_file: Live[FileName] = Field(
        None, description="With rediss://: the authority that signs the store's certificate."
    )
    cert_file: Live[FileName] = Field(None, description="With rediss://: the sidecar's certificate.")
    key_file: Live[FileName] = Field(None, description="With rediss://: the key of that certificate.")
    key_prefix: Live[KeyPrefix] = Field("example:", description="The beginning of all bucket names.")
    timeout_s: Timeout = Field(0.05, alias="timeout", description="The longest wait of one decision for the store.")
    on_failure: Live[FailureMode] = Field(
        "deny", description="What happens to limited requests when the store does not answer."
    )
    replicas: Live[Annotated[int, WholeNumber(1, MOST_REPLICAS)] | None] = Field(
        None,
        description="Proxies that share each limit under local. Default: those that announce themselves in the store.",
    )
    warn_at_buckets: Live[Annotated[int, WholeNumber(1, 10**12)]] = Field(
        1_000_000, description="A warning is logged when the store holds more keys."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_credentials(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("url"), str):
            return data
        url, username, password = store_url.split_credentials(data["url"])
        found = {"username": username, "password": password}
        return {**data, "url": url, **{name: text for name, text in found.items() if text and not data.get(name)}}

    @field_validator("ca_file", "cert_file", "key_file")
    @classmethod
    def _needs_tls(cls, name: str | None, info: ValidationInfo) -> str | None:
        url: StoreUrl | None = info.data.get("url")
        if name is not None and url is not None and not url.tls:
            raise ValueError("takes effect only with a store url of rediss://")
        return name

    @field_validator("sentinel_username", "sentinel_password")
    @classmethod
    def _needs_sentinels(cls, credential: str | SecretStr, info: ValidationInfo) -> str | SecretStr:
        given = credential.get_secret_value() if isinstance(credential, SecretStr) else credential
        url: StoreUrl | None = info.data.get("url")
        if given and url is not None and url.kind is not StoreKind.SENTINEL:
            raise ValueError("takes effect only with a store url of redis+sentinel://")
        return credential

    @model_validator(mode="after")
    def _pairs_files(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            alone, missing = ("cert_file", "key_file") if self.cert_file else ("key_file", "cert_file")
            raise Wrong([((alone,), f"needs {missing} too; expected both or neither")])
        return self

    @property
    def credentials(self) -> tuple[str, str]:
        """User name and password; empty where there are none."""
        return self.username, self.password.get_secret_value()
