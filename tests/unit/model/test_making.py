"""The quick copy is what ``dataclasses.replace`` gives, and the quickly made record what its dataclass would be."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given

from broker.model.making import copy_with, quickly_made
from broker.model.replica import Replica, ReplicaPhase
from broker.model.state import ModelState
from tests.support.builders import replica
from tests.support.strategies import values_of


@given(values_of(Replica))
def test_a_record_is_copied_with_every_field(record: Replica) -> None:
    assert copy_with(record) == record
    assert copy_with(record, phase=ReplicaPhase.GONE, url=None) == replace(record, phase=ReplicaPhase.GONE, url=None)


@given(values_of(ModelState))
def test_a_model_is_copied_with_every_field(model: ModelState) -> None:
    assert copy_with(model, target=7) == replace(model, target=7)


def test_the_original_stays_what_it_was_and_the_copy_is_frozen() -> None:
    original = replica()
    copy = copy_with(original, detail="copied")
    assert (original.detail, copy.detail) == ("", "copied")
    with pytest.raises(AttributeError):
        copy.detail = "changed"  # type: ignore[misc]


def test_a_field_that_there_is_not_is_refused() -> None:
    with pytest.raises(KeyError):
        copy_with(replica(), colour="red")


# Records made quickly.


@quickly_made
@dataclass(frozen=True, slots=True)
class Quick:
    name: str
    count: int = 3
    parts: dict[str, int] = field(default_factory=dict)


def test_a_quickly_made_record_is_frozen_and_equal_to_one_with_the_same_values() -> None:
    made = Quick("a", parts={"b": 1})
    assert (made.name, made.count, made.parts) == ("a", 3, {"b": 1})
    assert made == Quick(name="a", count=3, parts={"b": 1})
    assert replace(made, count=4) == Quick("a", 4, {"b": 1})
    assert type(made) is Quick
    with pytest.raises(AttributeError):
        made.count = 5  # type: ignore[misc]


def test_a_default_that_is_made_is_made_for_each() -> None:
    assert Quick("a").parts is not Quick("a").parts


def test_a_wrong_call_is_refused_as_python_does() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'name'"):
        Quick()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        Quick("a", colour=1)  # type: ignore[call-arg]


def test_what_does_more_than_set_its_fields_is_not_made_quickly() -> None:
    @dataclass(frozen=True, slots=True)
    class Checked:
        name: str

        def __post_init__(self) -> None:
            raise ValueError

    @dataclass(frozen=True, slots=True, kw_only=True)
    class ByName:
        name: str

    with pytest.raises(TypeError, match="__post_init__"):
        quickly_made(Checked)
    with pytest.raises(TypeError, match="is set by keyword only"):
        quickly_made(ByName)
