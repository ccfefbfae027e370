"""Exact JSON for every type of the vocabulary, driven by their type hints.

``encode`` and ``decode`` turn a value into plain JSON data and back. Alternatives of a union of classes carry a
``"type"`` tag (the class's name in snake case). Unknown fields are ignored and missing ones take their default, so
that old readers and old files go on working; ``dumps``/``loads`` add the schema's name and version around it and
refuse a newer major version.

Our own codec instead of a library: the vocabulary must import nothing (it is read by agents on bare nodes), and
pydantic's would cost four times as much per record in the log's hot path.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import functools
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from broker.model.errors import WireError
from broker.model.sketch import Sketch

T = TypeVar("T")
Encoder = Callable[[Any], Any]
Decoder = Callable[[Any], Any]

SCHEMA_VERSION = 1


def tag_of(cls: type) -> str:
    """``PoolSnapshot`` -> ``pool_snapshot``: the ``"type"`` of a union's alternative."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


def encode(value: Any, hint: Any = None) -> Any:
    """Plain JSON data of ``value``. ``hint`` is its static type if that is a union (then a tag is added)."""
    target: Any = type(value) if hint is None else hint
    return _encoder(target)(value)


def decode(hint: Any, data: Any) -> Any:
    """The value of type ``hint`` that ``data`` encodes. Raises ``WireError`` naming the field."""
    return _decoder(hint)(data)


def dumps(value: Any, hint: Any = None) -> str:
    """One line of JSON with its schema's name and version."""
    name = tag_of(type(value)) if hint is None else "union"
    return json.dumps(
        {"schema": f"tidegate.{name}/{SCHEMA_VERSION}", "data": encode(value, hint)},
        separators=(",", ":"),
        allow_nan=False,
    )


def loads(hint: Any, text: str | bytes) -> Any:
    """The inverse of ``dumps``. Raises ``WireError`` for bad JSON, a foreign schema or a newer version."""
    try:
        envelope = json.loads(text)
    except ValueError as error:
        raise WireError(f"not JSON: {error}") from None
    if not isinstance(envelope, dict) or "schema" not in envelope or "data" not in envelope:
        raise WireError("not a Tidegate message: it needs the fields schema and data")
    name, _, version = str(envelope["schema"]).rpartition("/")
    expected = f"tidegate.{tag_of(hint) if isinstance(hint, type) else 'union'}"
    if name != expected:
        raise WireError(f"schema {name!r} where {expected!r} is expected", field="schema")
    if not version.isdigit() or int(version) > SCHEMA_VERSION:
        raise WireError(f"version {version!r} is newer than {SCHEMA_VERSION}; upgrade this Tidegate", field="schema")
    return decode(hint, envelope["data"])


@functools.cache
def field_hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _same(value: Any) -> Any:
    return value


def alternatives(hint: Any) -> tuple[Any, ...] | None:
    """The members of a union, None if ``hint`` is none."""
    if isinstance(hint, types.UnionType) or get_origin(hint) is typing.Union:
        return get_args(hint)
    return None


def is_json_value(hint: Any) -> bool:
    """Whether ``hint`` is the recursive alias ``JsonValue``, which travels as it is."""
    return isinstance(hint, str | typing.ForwardRef) or hint is Any


@functools.cache
def _encoder(hint: Any) -> Encoder:
    if hint in (int, str, bool, type(None)) or is_json_value(hint):
        return _same
    if hint is float:
        return _finite
    if hint is Sketch:
        return lambda sketch: base64.b64encode(sketch.packed).decode("ascii")
    members = alternatives(hint)
    if members is not None:
        return _union_encoder(members)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return lambda member: member.value
    origin = get_origin(hint)
    if origin is tuple:
        return _tuple_encoder(get_args(hint))
    if origin in (dict, Mapping):
        of_key, of_value = (_encoder(part) for part in get_args(hint))
        return lambda mapping: {of_key(key): of_value(value) for key, value in mapping.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass_encoder(hint)
    raise TypeError(f"the wire has no form for {hint!r}")


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise WireError(f"{value!r} cannot travel as JSON")
    return value


def _tuple_encoder(members: tuple[Any, ...]) -> Encoder:
    if len(members) == 2 and members[1] is Ellipsis:
        of_item = _encoder(members[0])
        if of_item is _same:
            return list
        return lambda items: [of_item(item) for item in items]
    encoders = [_encoder(member) for member in members]
    return lambda items: [encoder(item) for encoder, item in zip(encoders, items, strict=True)]


def _union_encoder(members: tuple[Any, ...]) -> Encoder:
    classes: list[Any] = [member for member in members if dataclasses.is_dataclass(member)]
    if len(classes) < 2:
        inner = [member for member in members if member is not type(None)]
        if len(inner) != 1:
            return _same
        of_inner = _encoder(inner[0])
        return lambda value: None if value is None else of_inner(value)
    by_class = {member: (tag_of(member), _encoder(member)) for member in classes}

    def encode_member(value: Any) -> Any:
        if value is None:
            return None
        tag, encoder = by_class[type(value)]
        return {"type": tag, **encoder(value)}

    return encode_member


def _dataclass_encoder(cls: type) -> Encoder:
    hints = field_hints(cls)
    plain: list[str] = []
    encoded: list[tuple[str, Encoder]] = []
    order = [field.name for field in dataclasses.fields(cls)]
    for name in order:
        encoder = _encoder(hints[name])
        if encoder is _same:
            plain.append(name)
        else:
            encoded.append((name, encoder))
    # One dict display with attribute loads is the fastest form Python has; built once per class.
    source = "lambda value: {" + ",".join(
        f"{name!r}: value.{name}" if name in plain else f"{name!r}: _{name}(value.{name})" for name in order
    )
    scope: dict[str, Any] = {f"_{name}": encoder for name, encoder in encoded}
    compiled: Encoder = eval(source + "}", scope)
    return compiled


@functools.cache
def _decoder(hint: Any) -> Decoder:
    if is_json_value(hint):
        return _same
    if hint is float:
        return _decode_float
    if hint in (int, str, bool, type(None)):
        return functools.partial(_decode_scalar, hint)
    if hint is Sketch:
        return _decode_sketch
    members = alternatives(hint)
    if members is not None:
        return _union_decoder(members)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return functools.partial(_decode_enum, hint)
    origin = get_origin(hint)
    if origin is tuple:
        return _tuple_decoder(get_args(hint))
    if origin in (dict, Mapping):
        of_key, of_value = (_decoder(part) for part in get_args(hint))
        return functools.partial(_decode_mapping, of_key, of_value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass_decoder(hint)
    raise TypeError(f"the wire has no form for {hint!r}")


def _decode_float(data: Any) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float) or not math.isfinite(data):
        raise WireError(f"{data!r} is not a finite number")
    return float(data)


def _decode_scalar(cls: type, data: Any) -> Any:
    if type(data) is not cls:
        raise WireError(f"{data!r} is not {cls.__name__}")
    return data


def _decode_sketch(data: Any) -> Sketch:
    try:
        sketch = Sketch(base64.b64decode(data, validate=True))
        return Sketch.from_counts(dict(sketch))
    except (ValueError, TypeError) as error:
        raise WireError(f"not a sketch: {error}") from None
    except Exception as error:  # struct.error has no common base with the others
        raise WireError(f"not a sketch: {error}") from None


def _decode_enum(cls: type[enum.Enum], data: Any) -> enum.Enum:
    try:
        return cls(data)
    except ValueError:
        known = ", ".join(str(member.value) for member in cls)
        raise WireError(f"{data!r} is none of {known}") from None


def _decode_mapping(of_key: Decoder, of_value: Decoder, data: Any) -> dict[Any, Any]:
    if not isinstance(data, dict):
        raise WireError(f"{data!r} is not an object")
    decoded = {}
    for key, value in data.items():
        with _inside(str(key)):
            decoded[of_key(key)] = of_value(value)
    return decoded


def _tuple_decoder(members: tuple[Any, ...]) -> Decoder:
    variadic = len(members) == 2 and members[1] is Ellipsis
    decoders = [_decoder(member) for member in members if member is not Ellipsis]

    def decode_tuple(data: Any) -> tuple[Any, ...]:
        if not isinstance(data, list) or not (variadic or len(data) == len(decoders)):
            raise WireError(f"{data!r} is not a list of the right length")
        items = []
        for index, item in enumerate(data):
            with _inside(f"[{index}]"):
                items.append(decoders[0 if variadic else index](item))
        return tuple(items)

    return decode_tuple


def _union_decoder(members: tuple[Any, ...]) -> Decoder:
    tagged: list[Any] = [member for member in members if dataclasses.is_dataclass(member)]
    classes = {tag_of(member): _decoder(member) for member in tagged}
    optional = type(None) in members
    inner = [member for member in members if member is not type(None)]
    if len(classes) < 2 and len(inner) != 1:
        return _same

    def decode_member(data: Any) -> Any:
        if data is None and optional:
            return None
        if len(classes) < 2:
            return _decoder(inner[0])(data)
        tag = data.get("type") if isinstance(data, dict) else None
        if tag not in classes:
            raise WireError(f"type {tag!r} is none of {', '.join(classes)}", field="type")
        return classes[tag](data)

    return decode_member


def _dataclass_decoder(cls: type) -> Decoder:
    hints = field_hints(cls)
    required = {
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    names = [field.name for field in dataclasses.fields(cls)]
    decoders: dict[str, Decoder] = {}

    def decode_dataclass(data: Any) -> Any:
        if not isinstance(data, dict):
            raise WireError(f"{data!r} is not an object")
        if not decoders:  # filled late: types may contain each other
            decoders.update({name: _decoder(hints[name]) for name in names})
        arguments = {}
        for name in names:
            if name in data:
                with _inside(name):
                    arguments[name] = decoders[name](data[name])
            elif name in required:
                raise WireError("this field is missing", field=name)
        return cls(**arguments)

    return decode_dataclass


class _inside:
    """Prefixes the field of a ``WireError`` that passes through; a class, since a generator would cost a third more."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, WireError):
            joint = "" if not error.field or error.field.startswith("[") else "."
            field = f"{self.name}{joint}{error.field}"
            raise WireError(error.problem, field=field) from None
