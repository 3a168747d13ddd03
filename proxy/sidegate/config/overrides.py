"""Overrides of a policy, its rates, and the checks of both."""

from ipaddress import ip_network
from typing import Annotated, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sidegate.config.clauses import OverrideKeys
from sidegate.config.faults import Path, quote
from sidegate.config.section import Section
from sidegate.config.units import Quota
from sidegate.config.values import Flag, RateExpression, WholeNumber
from sidegate.decision.bad_request import BadRequest
from sidegate.decision.bucket import MAX_BURST, MOST_DEBT_BURSTS, Rate
from sidegate.decision.identity import Key, KeySource, SourceKind
from sidegate.decision.key_values import CREDENTIAL_FIELDS, cookie_value, credentials, query_value

Burst = Annotated[int, WholeNumber(1, MAX_BURST)]
Initial = Annotated[int, WholeNumber(0, MAX_BURST)]
InFlight = Annotated[int, WholeNumber(1, 1_000_000)]
WrittenRate = Annotated[Quota, RateExpression()]


class OverrideSettings(Section):
    """Another limit, a block or an exemption for some keys of a policy."""

    key: Annotated[tuple[tuple[str, ...], ...], OverrideKeys()] = Field(
        description="The keys, as requests show them; one list for each composite key."
    )
    burst: Burst | None = Field(None, description="The capacity of their buckets.")
    initial: Initial | None = Field(None, description="The tokens of their new buckets.")
    limit: WrittenRate | None = Field(None, validate_default=True, description="Their limit.")
    in_flight: InFlight | None = Field(None, description="Their most requests under way at once.")
    blocked: Flag = Field(False, description="Always refuse them.")
    exempt: Flag = Field(False, description="Do not apply this policy to them.")

    @property
    def capacity(self) -> int:
        """The burst, or the count in the limit; only where there is a limit."""
        assert self.limit is not None  # noqa: S101  (promised above)
        return self.burst or self.limit.count

    @field_validator("limit")
    @classmethod
    def _fits(cls, limit: Quota | None, info: ValidationInfo) -> Quota | None:
        return fitting(limit, info)

    @model_validator(mode="after")
    def _is_one_rule(self) -> Self:
        if (self.limit is not None) + (self.in_flight is not None) + self.blocked + self.exempt != 1:
            raise ValueError("an override is exactly one of limit, in_flight, blocked: true and exempt: true")
        if self.limit is None and (self.burst is not None or self.initial is not None):
            raise ValueError("burst and initial go with a limit; this override has none")
        return self


def fitting(limit: Quota | None, info: ValidationInfo) -> Quota | None:
    """The limit, where the arithmetic of buckets can hold it together with its burst."""
    if limit is None or "burst" not in info.data:
        return limit
    burst = info.data["burst"] or limit.count
    try:
        Rate.fitting(limit.count, limit.period_us, burst)
    except ValueError:
        raise ValueError(f"'{limit}' is too slow to fill a bucket of {burst}; expected a smaller burst") from None
    return limit


def limit_with_debts(limit: Quota, burst: int) -> Rate:
    """The rate of a bucket that may owe. Raises ValueError where the arithmetic of buckets cannot hold it."""
    return Rate.fitting(limit.count, limit.period_us, burst * (MOST_DEBT_BURSTS + 1))


def limit_with_bookings(limit: Quota, burst: int, wait_ms: int) -> Rate:
    """The rate of a bucket from which tokens are booked ahead. Raises ValueError as `limit_with_debts`."""
    ahead = limit.count * wait_ms * 1000 // limit.period_us + 1
    return Rate.fitting(limit.count, limit.period_us, 2 * burst + ahead)


def never_passes(cost: int, burst: int) -> str:
    return f"a cost of {cost} can never pass a burst of {burst}; expected a cost up to the burst"


def key_faults(overrides: tuple[OverrideSettings, ...], key: Key | None) -> list[tuple[Path, str]]:
    faults: list[tuple[Path, str]] = []
    seen: dict[tuple[str, ...], int] = {}
    for index, override in enumerate(overrides):
        for number, values in enumerate(override.key):
            if problem := _unseen(values, key):
                faults.append(((index, "key", number), problem))
            elif values in seen:
                before = f"overrides[{seen[values]}]"
                faults.append(((index, "key", number), f"{quote(', '.join(values))} stands in {before} already"))
            seen.setdefault(values, index)
    return faults


def _unseen(values: tuple[str, ...], key: Key | None) -> str:
    """Why no request shows these values of a key; empty where one may."""
    if key is None:
        return ""
    if len(values) != len(key.parts):
        expected = "one value" if len(key.parts) == 1 else f"lists of {len(key.parts)} values, e.g. [[a, b]]"
        return f"{quote(', '.join(values))} does not fit the key of this policy; expected {expected}"
    for value, alternatives in zip(values, key.parts, strict=True):
        problems = [_unseen_by(source, value) for source in alternatives]
        if all(problems):
            return problems[0]
    return ""


def _unseen_by(source: KeySource, value: str) -> str:
    """Why a source never shows a value; empty where it may."""
    try:
        _ = key_value(source, value)
    except BadRequest as error:
        return f"requests with {quote(value)} are answered 400: {error}"
    match source.kind:
        case SourceKind.CLIENT_IP if not _names_client(value):
            return f"{quote(value)} is not a client's address; expected e.g. 192.0.2.7 or 2001:db8::/64"
        case SourceKind.METHOD if value.upper() == "HEAD":
            return "'HEAD' has the key of GET, whose handler it runs; expected 'GET'"
        case SourceKind.METHOD if value != value.upper():
            return f"{quote(value)} is not a method as requests carry it; expected {quote(value.upper())}"
        case SourceKind.HOST if value != value.lower() or value.endswith("."):
            return f"{quote(value)} is not a host as keys have it; expected {quote(value.lower().rstrip('.'))}"
        case _:
            return ""


def key_value(source: KeySource, written: str) -> str | None:
    """A value of a source as requests write it, in the form that keys have; None where it is empty. Raises BadRequest.

    Paths and addresses are returned unchanged.
    """
    match source.kind:
        case SourceKind.COOKIE:
            return cookie_value(source.name, written)
        case SourceKind.QUERY:
            return query_value(written.replace("%", "%25").replace("+", "%2B"))
        case SourceKind.HEADER if source.name.lower() in CREDENTIAL_FIELDS:
            return credentials(written) if written.strip() else None
        case _:
            return written


def _names_client(value: str) -> bool:
    """Whether the source `client_ip` may show it: an IPv4 address, or an IPv6 address or network."""
    try:
        found = ip_network(value)
    except ValueError:
        return False
    return found.version == 6 or "/" not in value
