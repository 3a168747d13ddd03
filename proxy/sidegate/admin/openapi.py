"""The admin API as an OpenAPI document. The tests hold the sidecar to it."""

from collections.abc import Mapping
from typing import Any

import sidegate

KEY_PATTERN = r"^[A-Za-z0-9._~@+%=:,-]{1,1024}$"
NAME_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"
CURSOR_PATTERN = r"^[0-9]{1,20}(@[0-9A-Za-z.:_-]{1,260})?$"
PART_PATTERN = r"^[^\x00]{0,256}$"
TARGET_PATTERN = r"^/[!-~]{0,4096}$"
METHOD_PATTERN = r"^[A-Z][A-Z_-]{0,31}$"
FIELD_PATTERN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$"
VALUE_PATTERN = r"^[ -~]{0,4096}$"

Schema = dict[str, Any]


def _object(required: str, **properties: Schema) -> Schema:
    return {"type": "object", "required": required.split(), "properties": properties}


_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number"}
_FLAG: Schema = {"type": "boolean"}
_MAYBE_TEXT: Schema = {"type": ["string", "null"]}
_MAYBE_NUMBER: Schema = {"type": ["number", "null"]}
_COUNTS: Schema = {"type": "object", "additionalProperties": _COUNT}
_TEXTS: Schema = {"type": "array", "items": _TEXT}

_PROBLEM = _object("type title status detail", type=_TEXT, title=_TEXT, status=_COUNT, detail=_TEXT)
_HEALTH = _object("status app store config", status=_TEXT)
_BUCKET = _object(
    "bucket policy key tokens_at_last_charge ttl_s",
    bucket=_TEXT,
    policy=_MAYBE_TEXT,
    key=_MAYBE_TEXT,
    tokens_at_last_charge={"type": ["integer", "null"]},
    ttl_s=_MAYBE_NUMBER,
)
_LEVEL = _object(
    "policy key bucket rule stored",
    policy=_TEXT,
    key=_TEXT,
    bucket=_TEXT,
    rule={"enum": ["limit", "override", "blocked", "exempt"]},
    stored=_FLAG,
    tokens=_COUNT,
    next_token_s=_MAYBE_NUMBER,
    full_s=_NUMBER,
    ttl_s=_MAYBE_NUMBER,
)
_SECOND = _object("time policies store_calls store_ms", time=_NUMBER, store_calls=_COUNT, store_ms=_MAYBE_NUMBER)
_REFUSED = _object("policy key bucket count error", policy=_TEXT, key=_TEXT, bucket=_TEXT, count=_COUNT, error=_COUNT)
_WORKER_CONFIG = _object("worker status loaded hash", worker=_COUNT, status=_TEXT, loaded=_TEXT, hash=_TEXT)
_ASK: Schema = {
    **_object(
        "url",
        method={"type": "string", "pattern": METHOD_PATTERN, "default": "GET"},
        url={"type": "string", "pattern": TARGET_PATTERN, "description": "A path, as sent: /api/data?x=1"},
        headers={
            "type": "object",
            "maxProperties": 64,
            "propertyNames": {"pattern": FIELD_PATTERN},
            "additionalProperties": {"type": "string", "pattern": VALUE_PATTERN},
        },
        peer={"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}], "default": "127.0.0.1"},
        live={"type": "boolean", "default": False, "description": "Ask the store what the buckets hold now."},
    ),
    "additionalProperties": False,
}


def _json(schema: Schema, text: str, status: str = "200") -> Schema:
    return {status: {"description": text, "content": {"application/json": {"schema": schema}}}}


def _page(summary: str, *responses: Schema, faults: str = "", **more: Any) -> Schema:
    described: Schema = {status: {"$ref": "#/components/responses/Problem"} for status in faults.split()}
    for response in responses:
        described |= response
    return {"summary": summary, "responses": described, **more}


def _query(name: str, text: str, **schema: Any) -> Schema:
    return {"name": name, "in": "query", "description": text, "schema": schema}


def _in_path(name: str, pattern: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": pattern}}


_FOUND = _object("buckets cursor", buckets={"type": "array", "items": _BUCKET}, cursor=_MAYBE_TEXT)
_PLAIN_TEXT = {"200": {"description": "Text.", "content": {"text/plain": {"schema": _TEXT}}}}
_EVENTS = {"200": {"description": "Server-sent events.", "content": {"text/event-stream": {"schema": _TEXT}}}}
_OPEN: list[Any] = []
_MOST = _query("limit", "How many at most, about.", type="integer", minimum=1, maximum=1000, default=100)

PATHS: Mapping[str, Schema] = {
    "/livez": {"get": _page("Whether it runs.", _json(_object("status", status=_TEXT), "It does."), security=_OPEN)},
    "/readyz": {
        "get": _page(
            "Whether it should get traffic.",
            _json(_HEALTH, "It should."),
            _json(_HEALTH, "It should not; the parts say why.", "503"),
            security=_OPEN,
        )
    },
    "/metrics": {"get": _page("Metrics for Prometheus.", _PLAIN_TEXT, security=_OPEN)},
    "/openapi.json": {"get": _page("This document.", _json({"type": "object"}, "OpenAPI 3.1."), faults="401")},
    "/config": {
        "get": _page(
            "The configuration in force, its hash, and what was wrong with the last edit.",
            _json(
                _object(
                    "hash status loaded needs_restart settings",
                    hash=_TEXT,
                    status={"enum": ["ok", "stale"]},
                    loaded=_TEXT,
                    since=_TEXT,
                    faults=_TEXTS,
                    needs_restart=_TEXTS,
                    workers={"type": "array", "items": _WORKER_CONFIG},
                    settings={"type": "object"},
                ),
                "Secrets are masked.",
            ),
            faults="401",
        )
    },
    "/policies": {
        "get": _page(
            "Every policy, with what it has decided since the start.",
            _json(
                _object(
                    "policies",
                    policies={
                        "type": "array",
                        "items": _object(
                            "name exempt shadow match overrides outcomes", name=_TEXT, shadow=_FLAG, outcomes=_COUNTS
                        ),
                    },
                ),
                "In the order of the configuration.",
            ),
            faults="401",
        )
    },
    "/buckets": {
        "get": _page(
            "Buckets in the store: some of them, and a cursor for more. Perhaps none though more are to come.",
            _json(_FOUND, "Some buckets."),
            faults="400 401 404 503",
            parameters=[
                _query("policy", "Of this policy only.", type="string", pattern=NAME_PATTERN),
                _query("q", "Whose key holds this.", type="string", pattern=PART_PATTERN),
                _query("cursor", "Where an answer before this one ended.", type="string", pattern=CURSOR_PATTERN),
                _MOST,
            ],
        )
    },
    "/buckets/{policy}/{key}": {
        "parameters": [_in_path("policy", NAME_PATTERN), _in_path("key", KEY_PATTERN)],
        "get": _page(
            "What one bucket holds now, and when it holds more. Takes nothing.",
            _json(_LEVEL, "The bucket; `stored` says whether the store knows it."),
            faults="400 401 404 503",
        ),
        "delete": _page(
            "Give a key a new bucket. In force here at once, in other sidecars within a second; what a sidecar holds "
            "locally, while the store does not answer, is reset in this one only.",
            _json(
                _object(
                    "policy key bucket reset local store_error",
                    policy=_TEXT,
                    key=_TEXT,
                    bucket=_TEXT,
                    reset=_FLAG,
                    local=_FLAG,
                    store_error=_MAYBE_TEXT,
                ),
                "`reset` says whether the store had one, `local` whether this process held one; `store_error` why the "
                "store's was not reset, for a policy that is decided locally then.",
            ),
            faults="400 401 403 404 503",
        ),
    },
    "/explain": {
        "post": _page(
            "Which policies apply to a request, and why not the others. Charges nothing.",
            _json(
                _object(
                    "method target paths client result policies",
                    method=_TEXT,
                    target=_TEXT,
                    paths=_TEXTS,
                    client=_TEXT,
                    result={"enum": ["own_page", "bad_request", "exempt", "blocked", "unlimited", "limited"]},
                    bad_request=_MAYBE_TEXT,
                    policies={"type": "array", "items": _object("name part", name=_TEXT, part=_TEXT)},
                    live_error=_TEXT,
                ),
                "The explanation.",
            ),
            faults="400 401 403 413 415",
            requestBody={"required": True, "content": {"application/json": {"schema": _ASK}}},
        )
    },
    "/top": {
        "get": _page(
            "The keys that were refused most in the last minutes. `count` may be too high by `error` at most.",
            _json(_object("minutes refused", minutes=_COUNT, refused={"type": "array", "items": _REFUSED}), "Keys."),
            faults="400 401",
            parameters=[_query("limit", "How many.", type="integer", minimum=1, maximum=256, default=20)],
        )
    },
    "/timeline": {
        "get": _page(
            "The last seconds, one by one: outcomes by policy, calls of the store and their mean round trip.",
            _json(_object("seconds state", seconds={"type": "array", "items": _SECOND}), "The oldest first."),
            faults="400 401",
            parameters=[_query("seconds", "How many.", type="integer", minimum=1, maximum=900, default=60)],
        )
    },
    "/events": {"get": _page("The same as a stream: `history` once, then `second`.", _EVENTS, faults="401 503")},
}


def document() -> Schema:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sidegate admin API", "version": sidegate.__version__},
        "security": [{"token": []}],
        "paths": dict(PATHS),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Problem": {
                    "description": "Why not.",
                    "content": {"application/problem+json": {"schema": _PROBLEM}},
                }
            },
        },
    }
