"""Requests of the admin API, validated strictly: anything else is answered 400 with a sentence."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Le
from multidict import CIMultiDict
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, WithJsonSchema

from sidegate.admin.responses import Problem
from sidegate.decision.request import RequestFacts

M = TypeVar("M", bound=BaseModel)


def _whole(value: object) -> object:
    """Digits of a query; pydantic alone would also accept signs, spaces and fractions."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) < 10):
        raise ValueError("expected a whole number")
    return value


def _address(value: str) -> str:
    _ = ip_address(value)
    return value


def _text(pattern: str) -> Any:
    return StringConstraints(pattern=pattern, strict=True)


PolicyName = Annotated[str, _text(r"^[A-Za-z0-9._-]{1,64}$")]
BucketKey = Annotated[str, _text(r"^[A-Za-z0-9._~@+%=:,-]{1,1024}$")]
FieldName = Annotated[str, _text(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")]
FieldValue = Annotated[str, _text(r"^[ -~]{0,4096}$")]
PeerAddress = Annotated[
    str,
    Field(strict=True),
    BeforeValidator(_address),
    WithJsonSchema({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
]


class NoInput(BaseModel):
    """A request without parameters."""


class FindBuckets(BaseModel):
    """Query of `GET /buckets`."""

    policy: Annotated[PolicyName | None, Field(description="Only buckets of this policy.")] = None
    q: Annotated[str, _text(r"^[^\x00]{0,256}$"), Field(description="Only keys that contain this text.")] = ""
    cursor: Annotated[
        str | None,
        _text(r"^[0-9]{1,19}(@[0-9A-Za-z.:_-]{1,260})?$"),
        Field(description="`cursor` of the previous answer."),
    ] = None
    limit: Annotated[int, Ge(1), Le(1000), BeforeValidator(_whole), Field(description="Approximate maximum.")] = 100


class OneBucket(BaseModel):
    """Path of one bucket."""

    policy: PolicyName
    key: BucketKey


class TopQuery(BaseModel):
    """Query of `GET /top`."""

    limit: Annotated[int, Ge(1), Le(256), BeforeValidator(_whole), Field(description="Maximum number of keys.")] = 20


class RefusalsQuery(BaseModel):
    """Query of `GET /refusals`."""

    after: Annotated[
        int, Ge(0), Le(999_999_999), BeforeValidator(_whole), Field(description="`last` of the previous answer.")
    ] = 0


class TimelineQuery(BaseModel):
    """Query of `GET /timeline`."""

    seconds: Annotated[int, Ge(1), Le(900), BeforeValidator(_whole), Field(description="How many seconds.")] = 60


class WindowQuery(BaseModel):
    """Query of pages that describe the last seconds."""

    window: Annotated[
        str, _text(r"^([1-9][0-9]?|[1-8][0-9]{2}|900)s$"), Field(description="Length of the window: 1s to 900s.")
    ] = "10s"

    @property
    def seconds(self) -> int:
        """Length of the window."""
        return int(self.window.removesuffix("s"))


class FleetQuery(BaseModel):
    """Query of `GET /fleet`."""

    peers: Annotated[
        str,
        _text(r"^(https?://(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?/?(,|$)){0,64}$"),
        Field(description="URLs of admin listeners on loopback, separated by commas; default: `admin.peers`."),
    ] = ""


class ExplainRequest(BaseModel):
    """Body of `POST /explain`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Annotated[str, _text(r"^[A-Z][A-Z_-]{0,31}$")] = "GET"
    url: Annotated[str, _text(r"^/[!-~]{0,4096}$"), Field(description="A path as it is sent: /api/data?x=1")]
    headers: Annotated[
        dict[FieldName, FieldValue], Field(max_length=64, json_schema_extra={"additionalProperties": False})
    ] = {}
    peer: PeerAddress = "127.0.0.1"
    client_cert: Annotated[str, _text(r"^[ -~]{0,1024}$"), Field(description="The name in its certificate.")] = ""
    live: Annotated[bool, Field(strict=True, description="Read what the buckets hold now.")] = False

    @property
    def facts(self) -> RequestFacts:
        """The request to explain."""
        return RequestFacts(self.method, self.url, CIMultiDict(self.headers), self.peer, self.client_cert)


def validated(model: type[M], given: Mapping[str, object] | bytes) -> M:
    """The model of a query, a path or a JSON body. Raises Problem (400) with the first fault."""
    try:
        return model.model_validate_json(given) if isinstance(given, bytes) else model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        raise Problem(400, f"{place}: {_expectation(model, first['loc']) or first['msg']}") from None


def _form(pattern: str, description: str | None) -> str:
    """A parameter's description as what was expected, with its pattern; the pattern alone where it has none."""
    if description is None:
        return f"expected {pattern}"
    words = description if description[1].isupper() else description[0].lower() + description[1:]
    return f"expected {words.rstrip('.')} (pattern {pattern})"


def _expectation(model: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """What the parameter must look like; empty where the error's own message says it."""
    field = model.model_fields.get(str(place[0])) if len(place) == 1 else None
    if field is None or field.annotation is not int:
        schema = model.model_json_schema()["properties"].get(place[0], {}) if len(place) == 1 else {}
        patterns = [each["pattern"] for each in (schema, *schema.get("anyOf", ())) if "pattern" in each]
        return _form(patterns[0], field.description if field else None) if patterns else ""
    least = next(each.ge for each in field.metadata if isinstance(each, Ge))
    most = next(each.le for each in field.metadata if isinstance(each, Le))
    return f"expected a whole number from {least} to {most}"
