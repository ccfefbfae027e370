"""The quick copy is what ``dataclasses.replace`` gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from broker.control.copying import copy_with
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
