"""Strict reading of a policy's parameters.

The wire ignores unknown fields so that old readers understand new messages. An operator's file is another matter: a
mistyped field that silently took its default would be a rule that never fires.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, get_args, get_origin

from broker.model import wire
from broker.model.errors import ConfigError, WireError
from broker.model.spec import PolicySpec

T = TypeVar("T")


def read_parameters(cls: type[T], spec: PolicySpec) -> T:
    """``spec.parameters`` as the dataclass ``cls``.

    Raises ``ConfigError`` for an unknown, missing or ill-typed field; ``field`` is its path inside the parameters.
    """
    parameters = dict(spec.parameters)
    _refuse_unknown_fields(cls, parameters, "")
    try:
        decoded: T = wire.decode(cls, parameters)
    except WireError as error:
        raise ConfigError(error.problem, field=error.field or None) from None
    return decoded


def _refuse_unknown_fields(hint: Any, data: Any, path: str) -> None:
    """Walks ``data`` beside its type; data of a wrong type is left for the wire to refuse."""
    members = wire.alternatives(hint)
    if members is not None:
        for member in members:
            _refuse_unknown_fields(member, data, path)
    elif get_origin(hint) is tuple and isinstance(data, list):
        for index, item in enumerate(data):
            _refuse_unknown_fields(get_args(hint)[0], item, f"{path}[{index}]")
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(data, dict):
        hints = wire.field_hints(hint)
        for name, value in data.items():
            field = f"{path}.{name}" if path else str(name)
            if name not in hints:
                raise ConfigError(f"unknown field; the fields here are {', '.join(hints)}", field=field)
            _refuse_unknown_fields(hints[name], value, field)
