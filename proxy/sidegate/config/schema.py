"""The configuration as JSON Schema, for editors that complete and check while somebody writes.

The schema takes every configuration that the reader takes, and refuses most of what it refuses; what a schema cannot
say (a cost beyond the burst, a policy that another one exempts) is left to `sidegate check`.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from sidegate.config.about import ABOUT
from sidegate.config.fields import listed
from sidegate.config.model import Settings
from sidegate.config.policies import OverrideSettings, PolicySettings

Schema = dict[str, Any]

# A scalar may come from the environment, whatever its type.
_FROM_ENVIRONMENT: Schema = {"title": "${NAME:-default}", "type": "string", "pattern": r"\$\{"}
_REFERENCE: Schema = {"$ref": "#/$defs/FromEnvironment"}

_ONE_RULE: Schema = {
    "oneOf": [
        {"required": ["limit"]},
        {"required": ["blocked"], "properties": {"blocked": {"not": {"const": False}}}},
        {"required": ["exempt"], "properties": {"exempt": {"not": {"const": False}}}},
    ],
}
_LIMITS_OR_EXEMPTS: Schema = {
    "if": {"required": ["exempt"], "properties": {"exempt": {"not": {"const": False}}}},
    "else": {"required": ["key", "limit"]},
}
_RULES = {PolicySettings.__name__: _LIMITS_OR_EXEMPTS, OverrideSettings.__name__: _ONE_RULE}


def json_schema() -> Schema:
    """The schema (draft 2020-12) of a configuration file."""
    schema = Settings.model_json_schema(by_alias=True, schema_generator=_Generator)
    models = {model.__name__: model for model in _models(Settings)}
    for name, definition in schema["$defs"].items():
        _complete(definition, models[name])
        definition.update(_RULES.get(name, {}))
    _complete(schema, Settings)
    schema["$defs"]["FromEnvironment"] = _FROM_ENVIRONMENT
    for key, section in schema["properties"].items():
        if key != "policies":  # a section whose lines are all commented out is there, and empty
            about = section.pop("description")
            schema["properties"][key] = {"description": about, "anyOf": [section, {"type": "null"}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sidegate's configuration",
        **{key: value for key, value in schema.items() if key != "title"},
    }


class _Generator(GenerateJsonSchema):
    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> Schema:
        """What the reader of a value knows of it; else what its type says."""
        read: Any = schema["function"]["function"]
        if read is listed:
            items = self.generate_inner(schema["schema"])
            return {"anyOf": [items["items"], {**items, "minItems": 1}]}
        known: Schema | None = getattr(read, "json_schema", None)
        return self.generate_inner(schema["schema"]) if known is None else dict(known)


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


def _complete(definition: Schema, model: type[BaseModel]) -> None:
    """Give each key its default as it would be written, and let its value come from the environment."""
    del definition["title"]
    written = model.model_construct().model_dump(mode="json", by_alias=True, warnings=False)
    for key, value in definition["properties"].items():
        said = {name: text for name, text in _plainly(value).items() if name not in ("title", "default")}
        if isinstance(default := written.get(key), str | int | list) and default not in ("", []):
            said["default"] = default
        definition["properties"][key] = {"description": ABOUT[model.__name__][key], **said}


def _plainly(schema: Schema) -> Schema:
    """The schema without null, which nobody writes, and with references to the environment where a scalar stands."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        return _plainly({**{key: value for key, value in schema.items() if key != "anyOf"}, **choices[0]})
    if choices:
        scalars = [choice for choice in choices if choice.get("type") not in ("array", "object")]
        referring = [] if not scalars or any(map(_takes_any_text, scalars)) else [_REFERENCE]
        return {**schema, "anyOf": [*map(_below_plainly, choices), *referring]}
    if "$ref" in schema or schema.get("type") in ("array", "object") or _takes_any_text(schema):
        return _below_plainly(schema)
    outside: Schema = {key: schema[key] for key in ("title", "default", "examples") if key in schema}
    inside = {key: value for key, value in schema.items() if key not in outside}
    return {**outside, "anyOf": [inside, _REFERENCE]}


def _takes_any_text(schema: Schema) -> bool:
    return schema.get("type") == "string" and "pattern" not in schema


def _below_plainly(schema: Schema) -> Schema:
    below = {
        key: _plainly(schema[key]) for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)
    }
    return {**schema, **below}
