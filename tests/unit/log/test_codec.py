"""Steps, states and records as text."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from broker.log.codec import (
    checksum,
    entity_from_text,
    from_text,
    state_from_text,
    state_to_text,
    step_from_text,
    step_to_text,
    to_text,
)
from broker.model.errors import WireError
from broker.model.replica import GatewaySessionKey
from broker.model.snapshot import ModelSnapshot
from broker.model.state import BrokerState, GatewayState, ModelState, PoolState
from tests.support.builders import START, model_spec, pool_snapshot, replica, spec_changed, step_record


def test_a_step_comes_back_exactly_with_its_removed_entities() -> None:
    record = step_record(7, changes={("replica", "a"): replica("a"), ("replica", "b"): None})
    text = step_to_text(record)
    assert [key for key, body in text.entities if body is None] == [("replica", "b")]
    assert step_from_text(record.number, record.epoch, record.now, text.body, text.decisions) == record


def test_a_snapshot_that_a_model_keeps_is_written_once_into_its_step_and_comes_back_in_both_places() -> None:
    record = step_record(7)
    seen = record.observations[0]
    assert isinstance(seen, ModelSnapshot)
    model = ModelState("chat", model_spec(), target=2, snapshot=seen)
    record = replace(record, changes={("model", "chat"): model})
    text = step_to_text(record)
    assert text.body.count('"readings"') == 1
    assert step_from_text(record.number, record.epoch, record.now, text.body, text.decisions) == record
    ((_, body),) = text.entities
    assert entity_from_text(body or "") == model


def test_a_step_without_its_decisions_is_refused() -> None:
    record = step_record(7)
    with pytest.raises(WireError, match="0 decisions where the step made 1"):
        step_from_text(7, 1, record.now, step_to_text(record).body, [])


def test_a_state_comes_back_exactly() -> None:
    session = GatewaySessionKey("gw", "boot")
    state = (
        BrokerState()
        .with_changes(step_record(1).changes)
        .with_changes(
            {
                ("pool", "local"): PoolState("local", 8, START, error="timed out"),
                ("gateway", "gw/boot"): GatewayState(session, 3, 2, START, {"chat-0-g1": 4}),
                ("replica", "chat-0-g1"): replica(),
            }
        )
    )
    assert state_from_text(state_to_text(state)) == state


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"rate": math.nan}, id="not a number"),
        pytest.param([math.inf], id="infinite"),
        pytest.param({"when": object()}, id="no form in JSON"),
    ],
)
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(WireError, match="cannot be written as JSON"):
        to_text(value)


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(WireError, match="not JSON"):
        from_text("{")


def test_a_checksum_tells_one_column_from_the_next() -> None:
    assert checksum("ab", "c") != checksum("a", "bc")
    assert checksum(1, START) == checksum(1, START)


def test_every_observation_of_a_start_has_a_form() -> None:
    record = step_record(1)
    with_spec = step_to_text(
        type(record)(1, 1, START, (spec_changed(START, "chat", "code"), pool_snapshot()), changes={})
    )
    assert step_from_text(1, 1, START, with_spec.body, ()).observations[0] == spec_changed(START, "chat", "code")
