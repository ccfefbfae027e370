"""Hypothesis strategies for every type of the vocabulary, built from its type hints.

``values_of(Receipt)`` gives any receipt, ``values_of(Receipt, outcome=st.just(Outcome.ACCEPTED))`` fixes a field.
Values fit their types; whether they make sense together is for the test to narrow.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import math
import pkgutil
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from hypothesis import strategies as st

import broker.model
from broker.model.signals import Histogram
from broker.model.sketch import BUCKETS, Sketch
from broker.model.wire import Codec, alternatives, field_hints, is_json_value

finite_floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=8)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | finite_floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)

sketches = st.dictionaries(st.integers(0, BUCKETS - 1), st.integers(1, 2**32 - 1), max_size=4).map(Sketch.from_counts)


@st.composite
def histograms(draw: st.DrawFn) -> Histogram:
    """Rising bounds with the infinite one last, counts that never fall."""
    bounds = sorted(draw(st.sets(finite_floats, max_size=4)))
    size = len(bounds) + 1
    counts = sorted(draw(st.lists(st.floats(0, 1e12), min_size=size, max_size=size)))
    return Histogram((*bounds, math.inf), tuple(counts), draw(finite_floats))


def values_of(hint: Any, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values of a type hint of the vocabulary; ``fields`` replace the strategies of a dataclass's fields."""
    return _dataclass(hint, fields) if fields else _any_value(hint)


def vocabulary() -> list[type]:
    """Every dataclass that ``broker.model`` defines and that may travel, by name."""
    found: dict[str, type] = {}
    for module_info in pkgutil.iter_modules(broker.model.__path__):
        module = importlib.import_module(f"broker.model.{module_info.name}")
        for name, value in vars(module).items():
            if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == module.__name__:
                found[name] = value
    del found[Codec.__name__]  # functions do not travel
    return [found[name] for name in sorted(found)]


@functools.cache
def _any_value(hint: Any) -> st.SearchStrategy[Any]:
    if hint in _LEAVES:
        return _LEAVES[hint]
    if is_json_value(hint):
        return json_values
    members = alternatives(hint)
    if members is not None:
        return st.one_of([_any_value(member) for member in members])
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return st.sampled_from(list(hint))
    parts = get_args(hint)
    if get_origin(hint) is tuple:
        if len(parts) == 2 and parts[1] is Ellipsis:
            return st.lists(_any_value(parts[0]), max_size=2).map(tuple)
        return st.tuples(*(_any_value(part) for part in parts))
    origin = get_origin(hint)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return st.dictionaries(_any_value(parts[0]), _any_value(parts[1]), max_size=2)
    return _dataclass(hint, {})


def _dataclass(cls: Any, fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    hints = field_hints(cls)
    return st.builds(
        cls,
        **{field.name: fields.get(field.name) or _any_value(hints[field.name]) for field in dataclasses.fields(cls)},
    )


_LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(),
    float: finite_floats,
    str: texts,
    bool: st.booleans(),
    type(None): st.none(),
    bytes: st.binary(max_size=16),
    Sketch: sketches,
    Histogram: histograms(),
}
