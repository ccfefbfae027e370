"""JSON Schemas (draft 2020-12) of what travels, generated from the same type hints as the codecs.

    python -m broker.model.json_schema docs/schemas

Descriptions are the classes' docstrings; a sentence that begins with a field's name describes that field. Unknown
fields are allowed, as readers ignore them.
"""

from __future__ import annotations

import enum
import inspect
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from broker.model.agents import AgentAnswer, AgentReport
from broker.model.api import EndpointsSnapshot, GatewaySession
from broker.model.observation import Observation, Override, PauseChanged
from broker.model.plan import Decision, Effect
from broker.model.ports import Checkpoint, StepRecord
from broker.model.replica import EndpointRecord, Replica
from broker.model.signals import Histogram, MetricSample, RequestSummary
from broker.model.sketch import BUCKETS, BUCKETS_PER_DOUBLING, SMALLEST, Sketch
from broker.model.snapshot import ModelSnapshot
from broker.model.state import Entity
from broker.model.window_state import DeadLetter, ScraperBeat, WindowState
from broker.model.wire import (
    alternatives,
    encode,
    field_hints,
    has_text_keys,
    is_json_value,
    schema_name,
    schema_version,
    tag_of,
)

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

PUBLISHED: Final[tuple[Any, ...]] = (
    AgentAnswer,
    AgentReport,
    Checkpoint,
    DeadLetter,
    Decision,
    Effect,
    EndpointRecord,
    EndpointsSnapshot,
    Entity,
    GatewaySession,
    MetricSample,
    ModelSnapshot,
    Observation,
    Override,
    PauseChanged,
    Replica,
    RequestSummary,
    ScraperBeat,
    StepRecord,
    WindowState,
)
"""What gets a file of its own: bodies of the API and records of topics."""

_SCALARS: Final[Mapping[Any, str]] = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    type(None): "null",
}

_SKETCH: Final[Schema] = {
    "type": "string",
    "contentEncoding": "base64",
    "description": "A histogram: pairs (bucket: uint16, count: uint32), little-endian, by rising bucket. Bucket 0 holds"
    f" values up to {SMALLEST:g}, bucket i those up to {SMALLEST:g} * 2^(i/{BUCKETS_PER_DOUBLING}), the last of"
    f" {BUCKETS} all above.",
}


def schema_of(hint: Any) -> Schema:
    """The schema of ``encode(value, hint)``, whole: what it refers to is in its ``$defs``."""
    definitions: dict[str, Schema] = {}
    name = schema_name(hint)
    body = _schema(hint, definitions)
    head = {"$schema": DIALECT, "$id": f"urn:tidegate:{name}:{schema_version(name)}", "title": name}
    return {**head, **body, "$defs": dict(sorted(definitions.items()))}


def envelope_schema() -> Schema:
    """The schema of what ``dumps`` writes around the data."""
    return {
        "$schema": DIALECT,
        "$id": "urn:tidegate:envelope",
        "title": "envelope",
        "description": "What stands around the data of a record in a topic; HTTP bodies are the data alone.",
        "type": "object",
        "properties": {
            "schema": {
                "type": "string",
                "pattern": r"^tidegate\.[a-z_]+/[1-9][0-9]*$",
                "description": "The name of the data's schema and its version.",
            },
            "data": {"description": "What the schema of that name says."},
        },
        "required": ["schema", "data"],
    }


def schema_files() -> dict[str, str]:
    """The text of every schema file, by its name."""
    schemas = {schema_name(hint): schema_of(hint) for hint in PUBLISHED} | {"envelope": envelope_schema()}
    return {f"{name}.json": json.dumps(schema, indent=2) + "\n" for name, schema in schemas.items()}


def write_schemas(directory: Path) -> None:
    """Write every schema file below ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in schema_files().items():
        (directory / name).write_text(text, encoding="utf-8")


def _schema(hint: Any, definitions: dict[str, Schema]) -> Schema:
    if is_json_value(hint):
        return {"description": "Any JSON value."}
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if hint is bytes:
        return {"type": "string", "contentEncoding": "base64"}
    members = alternatives(hint)
    if members is not None:
        return _union(members, definitions)
    parts = get_args(hint)
    origin = get_origin(hint)
    if origin is tuple:
        return _array(parts, definitions)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(parts[0], parts[1], definitions)
    return _definition(hint, definitions)


def _definition(cls: type, definitions: dict[str, Schema]) -> Schema:
    name = tag_of(cls)
    if name not in definitions:
        definitions[name] = {}  # stands in while the class is described, for those that contain each other
        if cls is Sketch:
            definitions[name] = _SKETCH
        elif issubclass(cls, enum.Enum):
            definitions[name] = {"enum": [member.value for member in cls]} | _described(_docstring(cls))
        else:
            definitions[name] = _object(cls, definitions)
    return {"$ref": f"#/$defs/{name}"}


def _object(cls: Any, definitions: dict[str, Schema]) -> Schema:
    words = _docstring(cls)
    properties: dict[str, Schema] = {}
    required: list[str] = []
    for field in fields(cls):
        hint = field_hints(cls)[field.name]
        schema = _schema(hint, definitions)
        described = _about(field.name, words)
        if cls is Histogram and field.name == "bounds":
            described = "Upper bounds of the buckets; the last one, which is infinite, is left out."
        schema |= _described(described)
        if (default := _default(field)) is not MISSING:
            schema["default"] = encode(default, hint)
        else:
            required.append(field.name)
        properties[field.name] = schema
    return {"type": "object", **_described(words), "properties": properties, "required": required}


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _union(members: tuple[Any, ...], definitions: dict[str, Schema]) -> Schema:
    inner = [member for member in members if member is not type(None)]
    optional = [{"type": "null"}] if len(inner) < len(members) else []
    if len(inner) > 1:
        return {"oneOf": [_tagged(member, definitions) for member in inner] + optional}
    schema = _schema(inner[0], definitions)
    if optional and set(schema) == {"type"}:
        return {"type": [schema["type"], "null"]}
    return {"anyOf": [schema, *optional]}


def _tagged(cls: type, definitions: dict[str, Schema]) -> Schema:
    return {**_definition(cls, definitions), "properties": {"type": {"const": tag_of(cls)}}, "required": ["type"]}


def _array(parts: tuple[Any, ...], definitions: dict[str, Schema]) -> Schema:
    if len(parts) == 2 and parts[1] is Ellipsis:
        return {"type": "array", "items": _schema(parts[0], definitions)}
    items = [_schema(part, definitions) for part in parts]
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def _mapping(key: Any, value: Any, definitions: dict[str, Schema]) -> Schema:
    if not has_text_keys(key):
        return {"type": "array", "items": _array((key, value), definitions)}
    names = {} if key is str else {"propertyNames": _schema(key, definitions)}
    return {"type": "object", **names, "additionalProperties": _schema(value, definitions)}


def _docstring(cls: type) -> str:
    """The class's own docstring, not an inherited one."""
    return inspect.cleandoc(vars(cls).get("__doc__") or "")


def _described(words: str) -> Schema:
    """``words`` as a description in running text, without the marks of code."""
    text = re.sub(r"\s+", " ", words.replace("``", "")).strip()
    return {"description": text} if text else {}


def _about(field: str, docstring: str) -> str:
    """The sentences of ``docstring`` that begin with the field's name."""
    sentences = re.split(r"(?<=[.!?])\s+(?=``|[A-Z])", docstring)
    return " ".join(sentence for sentence in sentences if sentence.startswith(f"``{field}``"))


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m broker.model.json_schema DIRECTORY", file=sys.stderr)
        return 2
    write_schemas(Path(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
