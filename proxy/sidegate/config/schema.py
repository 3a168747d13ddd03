"""The configuration as JSON Schema, for editors that complete and check.

The schema accepts every configuration that the reader accepts, and rejects most of those that it rejects. `sidegate
check` finds the rest: a cost above the burst, a policy that another one exempts entirely.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from sidegate.config.model import Settings
from sidegate.config.overrides import OverrideSettings
from sidegate.config.policies import PolicySettings

JsonSchema = dict[str, Any]

# A scalar may come from the environment, whatever its type.
_FROM_ENVIRONMENT: JsonSchema = {"title": "${NAME:-default}", "type": "string", "pattern": r"\$\{"}
_REFERENCE: JsonSchema = {"$ref": "#/$defs/FromEnvironment"}

_ONE_RULE: JsonSchema = {
    "oneOf": [
        {"required": ["limit"]},
        {"required": ["blocked"], "properties": {"blocked": {"not": {"const": False}}}},
        {"required": ["exempt"], "properties": {"exempt": {"not": {"const": False}}}},
    ],
}
_LIMITS_OR_EXEMPTS: JsonSchema = {
    "if": {"required": ["exempt"], "properties": {"exempt": {"not": {"const": False}}}},
    "else": {"required": ["key", "limit"]},
}
_RULES = {PolicySettings.__name__: _LIMITS_OR_EXEMPTS, OverrideSettings.__name__: _ONE_RULE}


def json_schema() -> JsonSchema:
    """The schema (draft 2020-12) of a configuration file."""
    schema = Settings.model_json_schema(by_alias=True)
    models = {model.__name__: model for model in _models(Settings)}
    for name, definition in schema["$defs"].items():
        _complete(definition, models[name])
        definition.update(_RULES.get(name, {}))
    _complete(schema, Settings)
    schema["$defs"]["FromEnvironment"] = _FROM_ENVIRONMENT
    for key, section in schema["properties"].items():
        if key != "policies":  # a section whose lines are all commented out is present and empty
            description = section.pop("description")
            schema["properties"][key] = {"description": description, "anyOf": [section, {"type": "null"}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sidegate's configuration",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for part in _types(field.annotation):
            yield from _models(part)


def _types(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _types(part)


def _complete(definition: JsonSchema, model: type[BaseModel]) -> None:
    """Adds each key's default in its written form, and a reference to the environment as a possible value."""
    del definition["title"]
    descriptions = {field.alias or name: field.description for name, field in model.model_fields.items()}
    written = model.model_construct().model_dump(mode="json", by_alias=True, warnings=False)
    for key, value in definition["properties"].items():
        known = {
            name: text for name, text in _format_all(value).items() if name not in ("title", "default", "description")
        }
        if isinstance(default := written.get(key), str | int | list) and default not in ("", []):
            known["default"] = default
        definition["properties"][key] = {"description": descriptions[key], **known}


def _format_all(schema: JsonSchema) -> JsonSchema:
    """The schema without null, which no document holds, and with environment references where a scalar may stand."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        return _format_all({**{key: value for key, value in schema.items() if key != "anyOf"}, **choices[0]})
    if choices:
        scalars = [choice for choice in choices if choice.get("type") not in ("array", "object")]
        referring = [] if not scalars or any(map(_takes_any_text, scalars)) else [_REFERENCE]
        return {**schema, "anyOf": [*map(_format_below, choices), *referring]}
    if "$ref" in schema or schema.get("type") in ("array", "object") or _takes_any_text(schema):
        return _format_below(schema)
    outside: JsonSchema = {key: schema[key] for key in ("title", "description", "default", "examples") if key in schema}
    inside = {key: value for key, value in schema.items() if key not in outside}
    return {**outside, "anyOf": [inside, _REFERENCE]}


def _takes_any_text(schema: JsonSchema) -> bool:
    return schema.get("type") == "string" and "pattern" not in schema


def _format_below(schema: JsonSchema) -> JsonSchema:
    below = {
        key: _format_all(schema[key]) for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)
    }
    return {**schema, **below}
