"""What every configuration key is allowed to hold, in words.

One source for error texts, the comments of ``conf/*.toml`` and docs/configuration.md: the JSON schema that pydantic
derives from the sections.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from lakefactor.config.section import Section
from lakefactor.config.sections import Config


@cache
def sections() -> dict[str, type[Section]]:
    """Section classes by name, in the order of ``Config``."""
    return {name: field.annotation for name, field in Config.model_fields.items() if isinstance(field.annotation, type)}


@cache
def keys() -> dict[str, dict[str, Any]]:
    """JSON schema of every key, by its dotted name (``model.rank``), in the order of ``Config``.

    >>> keys()["model.rank"]["maximum"]
    2048
    """
    return {
        f"{name}.{key}": schema
        for name, section in sections().items()
        for key, schema in section.model_json_schema()["properties"].items()
    }


@cache
def secrets() -> tuple[str, ...]:
    """Dotted names of the keys whose values are shown and recorded nowhere.

    >>> secrets()
    ('stream.kafka_options', 'serve.api_keys')
    """
    return tuple(key for key, schema in keys().items() if schema.get("secret"))


def allowed(schema: dict[str, Any]) -> str:
    """Say in words which values a JSON schema accepts.

    >>> allowed(keys()["model.rank"])
    'integer, 1 to 2048'
    >>> allowed(keys()["evaluate.ks"])
    'list (at least 1) of: integer, 1 to 1000'
    """
    if "enum" in schema:
        return " | ".join(schema["enum"])
    match schema["type"]:
        case "boolean":
            return "true | false"
        case "array":
            least = f" (at least {schema['minItems']})" if "minItems" in schema else ""
            return f"list{least} of: {allowed(schema['items'])}"
        case "object":
            return f"table of name = {allowed(schema['additionalProperties'])}"
        case "string":
            return "text" + _length(schema) + (f" like {schema['pattern']}" if "pattern" in schema else "")
        case "number":
            return "finite number" + _interval(schema)
        case kind:
            return kind + _interval(schema)


def _length(schema: dict[str, Any]) -> str:
    least, most = schema.get("minLength"), schema.get("maxLength")
    if least == most == 1:
        return " of one character"
    return ", not empty" if least else ""


def _interval(schema: dict[str, Any]) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f", {_number(schema['minimum'])} to {_number(schema['maximum'])}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    parts = [f"{sign} {_number(schema[name])}" for name, sign in signs.items() if name in schema]
    return (", " + " and ".join(parts)) if parts else ""


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
