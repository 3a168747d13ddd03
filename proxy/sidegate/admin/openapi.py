"""Generates the OpenAPI 3.1 document of the admin API from its table of endpoints."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, TypeAdapter
from typing_extensions import TypedDict

import sidegate
from sidegate.admin.endpoints import ENDPOINTS, AdminEndpoint

OpenApiSchema = dict[str, Any]
_REFERENCE = "#/components/schemas/{model}"
# Paths that do not answer JSON.
_TEXT_PATHS: OpenApiSchema = {
    "/metrics": ("Metrics for Prometheus; OpenMetrics if the Accept field asks for it.", "text/plain", ""),
    "/events": ("The timeline as a stream: event `history` once, then `second`.", "text/event-stream", "401 503"),
}


class ProblemContent(TypedDict):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


def document() -> OpenApiSchema:
    """The whole document."""
    schemas: OpenApiSchema = {}
    paths: OpenApiSchema = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    for path, (summary, kind, problems) in _TEXT_PATHS.items():
        answer = {"description": "Text.", "content": {kind: {"schema": {"type": "string"}}}}
        paths[path] = {"get": {"summary": summary, "responses": {**_problems(problems), "200": answer}}}
    paths["/metrics"]["get"]["security"] = []
    served = {"description": "OpenAPI 3.1.", "content": {"application/json": {"schema": {"type": "object"}}}}
    paths["/openapi.json"] = {"get": {"summary": "This document.", "responses": {**_problems("401"), "200": served}}}
    problem = {"application/problem+json": {"schema": _schema(ProblemContent, schemas)}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sidegate admin API", "version": sidegate.__version__},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas,
            "responses": {"Problem": {"description": "The reason.", "content": problem}},
        },
    }


def _operation(endpoint: AdminEndpoint, schemas: OpenApiSchema) -> OpenApiSchema:
    content = {"application/json": {"schema": _schema(endpoint.response, schemas)}}
    answers = {str(status): {"description": endpoint.summary, "content": content} for status in endpoint.statuses}
    operation: OpenApiSchema = {"summary": endpoint.summary, "responses": {**_problems(endpoint.problems), **answers}}
    if endpoint.is_open:
        operation["security"] = []
    if endpoint.source == "body":
        body = {"application/json": {"schema": _schema(endpoint.input, schemas)}}
        operation["requestBody"] = {"required": True, "content": body}
    elif endpoint.source != "none":
        operation["parameters"] = list(_parameters(endpoint.input, endpoint.source))
    return operation


def _parameters(model: type[BaseModel], place: str) -> Iterator[OpenApiSchema]:
    schema = model.model_json_schema()
    for name, each in schema["properties"].items():
        # A parameter that may be left out is not sent as null.
        variants = [variant for variant in each.get("anyOf", ()) if variant.get("type") != "null"]
        shown = {key: value for key, value in {**each, **(variants[0] if variants else {})}.items() if key != "anyOf"}
        description = shown.pop("description", name)
        if shown.get("default", "") is None:
            del shown["default"]
        required = place == "path" or name in schema.get("required", ())
        yield {"name": name, "in": place, "description": description, "required": required, "schema": shown}


def _schema(kind: Any, schemas: OpenApiSchema) -> OpenApiSchema:
    """A reference to the type's schema, which is added to `schemas` with all that it refers to."""
    schema = TypeAdapter(kind).json_schema(ref_template=_REFERENCE)
    schemas.update(schema.pop("$defs", {}))
    schemas[kind.__name__] = schema
    return {"$ref": _REFERENCE.format(model=kind.__name__)}


def _problems(statuses: str) -> OpenApiSchema:
    return {status: {"$ref": "#/components/responses/Problem"} for status in statuses.split()}
