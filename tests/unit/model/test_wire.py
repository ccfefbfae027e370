"""What travels comes back exactly, and what does not fit is refused in words."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.model.api import GatewaySession
from broker.model.errors import WireError
from broker.model.observation import Observation, Outcome, PoolSnapshot, Receipt
from broker.model.plan import Action, Effect
from broker.model.ports import StepRecord
from broker.model.replica import ObservedReplica, ReplicaPhase
from broker.model.signals import Histogram, MetricSample, RequestSummary
from broker.model.sketch import Sketch
from broker.model.spec import PolicySpec
from broker.model.state import BrokerState, ControlState, Entity, PoolState
from broker.model.wire import Upgrades, codec_of, decode, dumps, encode, loads, schema_version
from tests.support.strategies import finite_floats, json_values, values_of, vocabulary

RECEIPT = Receipt("launch-1", "chat-0-g1", "chat", Outcome.ACCEPTED, 1.0, 2.0)
SUMMARY = RequestSummary("chat", "gateway", "boot", 1, 1.0, 2.0, 1.0, queue_age=Sketch.of([0.5, 7.0]))


@pytest.mark.parametrize("cls", vocabulary(), ids=lambda cls: cls.__name__)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_every_type_of_the_vocabulary_comes_back_exactly(cls: type, data: st.DataObject) -> None:
    value = data.draw(values_of(cls))
    assert loads(cls, dumps(value)) == value


@pytest.mark.parametrize(
    "union", [Observation, Action, Effect, Entity], ids=["observation", "action", "effect", "entity"]
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_a_union_comes_back_as_the_same_alternative(union: Any, data: st.DataObject) -> None:
    value = data.draw(values_of(union))
    returned = loads(union, dumps(value, union))
    assert returned == value
    assert type(returned) is type(value)


@given(finite_floats)
def test_floats_keep_every_bit(value: float) -> None:
    returned = decode(float, json.loads(json.dumps(encode(value))))
    assert returned.hex() == value.hex()


@given(json_values)
def test_plain_json_in_a_policys_parameters_comes_back_exactly(value: Any) -> None:
    spec = PolicySpec("threshold", {"value": value})
    assert loads(PolicySpec, dumps(spec)) == spec


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@settings(max_examples=100)
def test_whatever_is_sent_as_a_gateway_session_is_read_or_refused_never_a_crash(sent: Any) -> None:
    with contextlib.suppress(WireError):
        decode(GatewaySession, sent)


def test_the_envelope_names_schema_and_version_and_a_union_by_its_own_name() -> None:
    assert json.loads(dumps(RECEIPT))["schema"] == "tidegate.receipt/1"
    envelope = json.loads(dumps(RECEIPT, Observation))
    assert envelope["schema"] == "tidegate.observation/1"
    assert envelope["data"]["type"] == "receipt"


def test_unknown_fields_are_ignored_and_missing_ones_take_their_default() -> None:
    data = encode(RECEIPT) | {"invented_later": {"by": "someone"}}
    del data["detail"], data["retry_after_s"]
    assert decode(Receipt, data) == RECEIPT


def test_changes_keep_their_keys_and_removals() -> None:
    changes: dict[tuple[str, str], Entity | None] = {
        ("control", ""): ControlState(last_now=1.0),
        ("pool", "a"): PoolState("a"),
        ("replica", "chat-0-g1"): None,
    }
    record = StepRecord(1, 1, 1.0, (RECEIPT,), changes)
    assert encode(record)["changes"][2] == [["replica", "chat-0-g1"], None]
    assert loads(StepRecord, dumps(record)) == record


def test_the_infinite_bound_of_a_histogram_goes_without_saying() -> None:
    histogram = Histogram((0.5, math.inf), (3.0, 4.0), 9.0)
    assert encode(histogram)["bounds"] == [0.5]
    assert decode(Histogram, encode(histogram)) == histogram


@pytest.mark.parametrize(
    ("value", "words"),
    [
        pytest.param(replace(RECEIPT, observed_at=math.nan), "observed_at: nan has no JSON form", id="NaN in a field"),
        pytest.param(
            GatewaySession("b", 1, 1, 1.0, summaries=(SUMMARY, replace(SUMMARY, interval_s=math.inf))),
            "summaries[1].interval_s: inf has no JSON form",
            id="infinity deep inside",
        ),
        pytest.param(
            PolicySpec("threshold", {"rules": [{"above": math.nan}]}),
            "parameters.rules[0].above: nan has no JSON form",
            id="NaN in free JSON",
        ),
        pytest.param(
            PolicySpec("threshold", {"rules": (1, 2)}),  # type: ignore[dict-item]
            "parameters.rules: (1, 2) has no JSON form",
            id="a tuple in free JSON would come back as a list",
        ),
        pytest.param(
            MetricSample("m", "r", 1.0, 1.0, queue_time=Histogram((1.0,), (1.0,), 1.0)),
            "queue_time.bounds: the last bound of a histogram must be infinite",
            id="a histogram without its infinite bound",
        ),
    ],
)
def test_what_has_no_json_form_is_refused_by_field(value: Any, words: str) -> None:
    with pytest.raises(WireError) as caught:
        dumps(value)
    assert str(caught.value) == words


def altered(**fields: Any) -> dict[str, Any]:
    return dict(encode(RECEIPT) | fields)


@pytest.mark.parametrize(
    ("hint", "data", "words"),
    [
        pytest.param(Receipt, [], "[] is not an object", id="a list for an object"),
        pytest.param(Receipt, {"action_id": "a"}, "replica_id: this field is missing", id="a missing field"),
        pytest.param(Receipt, altered(model_id=3), "model_id: 3 is not text", id="a number for text"),
        pytest.param(
            Receipt, altered(observed_at="1"), "observed_at: '1' is not a finite number", id="text for a number"
        ),
        pytest.param(
            Receipt, altered(observed_at=True), "observed_at: True is not a finite number", id="a bool for a number"
        ),
        pytest.param(Receipt, altered(observed_at=math.nan), "observed_at: nan is not a finite number", id="NaN"),
        pytest.param(Receipt, altered(observed_at=10**400), "is not a finite number", id="beyond the range of floats"),
        pytest.param(
            Receipt, altered(outcome="perhaps"), "outcome: 'perhaps' is none of accepted, transient", id="enum"
        ),
        pytest.param(Receipt, altered(outcome=[]), "outcome: [] is none of accepted", id="a list for an enum"),
        pytest.param(Receipt, altered(detail=["x" * 10**6]), "is not text", id="a giant is shown shortened"),
        pytest.param(
            PoolSnapshot,
            {"pool_id": "a", "observed_at": 1, "received_at": 1, "known": True, "replicas": [{}]},
            "replicas[0].replica_id: this field is missing",
            id="a field inside a list",
        ),
        pytest.param(Observation, {"type": "receipt"}, "action_id: this field is missing", id="inside a union"),
        pytest.param(Observation, {"type": "poem"}, "type: 'poem' is none of model_snapshot", id="an unknown tag"),
        pytest.param(Observation, {}, "type: None is none of model_snapshot", id="no tag"),
        pytest.param(tuple[str, str], ["a"], "a list of 1 where 2 items are expected", id="a pair of one"),
        pytest.param(Sketch, "!", "not a sketch", id="a sketch that is not base64"),
        pytest.param(Sketch, "AAAA", "not a sketch", id="a sketch of half an entry"),
        pytest.param(
            Sketch, "BQABAAAABQABAAAA", "bucket 5 with count 1 after bucket 5", id="a sketch with a bucket twice"
        ),
        pytest.param(Sketch, "BQAAAAAA", "bucket 5 with count 0", id="a sketch with an empty bucket"),
        pytest.param(Sketch, None, "None is not a sketch", id="no sketch"),
    ],
)
def test_what_does_not_fit_is_refused_by_field(hint: Any, data: Any, words: str) -> None:
    with pytest.raises(WireError) as caught:
        decode(hint, data)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("{", "not JSON", id="cut off"),
        pytest.param(b"\xff", "not JSON", id="not text"),
        pytest.param("[" * 100_000, "nested too deeply", id="nested to exhaustion"),
        pytest.param("[]", "needs the fields schema and data", id="no envelope"),
        pytest.param('{"schema": 1, "data": {}}', "schema: 1 is not of the form", id="no name"),
        pytest.param('{"schema": "tidegate.receipt/²", "data": {}}', "is not of the form", id="no number"),
        pytest.param(
            '{"schema": "tidegate.probe/1", "data": {}}', "a 'probe' where a 'receipt' is expected", id="foreign"
        ),
        pytest.param('{"schema": "tidegate.receipt/2", "data": {}}', "version 2 is newer than 1", id="newer"),
        pytest.param(
            '{"schema": "tidegate.receipt/1", "data": {}}', "data.action_id: this field is missing", id="bad data"
        ),
    ],
)
def test_a_message_that_is_not_ours_is_refused(text: str | bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        loads(Receipt, text)


def test_an_error_quotes_no_more_than_a_dead_letter_holds_whatever_was_sent() -> None:
    """One that quoted a key of 400 kB made a letter that Kafka refused, which ended the worker that wrote it."""
    for problem in ("x" * 10**6, repr(b"\xff" * 10**6)):
        assert len(str(WireError(problem, field="y" * 10**6))) < 2100


def test_json_too_deep_to_write_is_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(WireError, match="nested too deeply"):
        dumps(PolicySpec("threshold", {"deep": deep}))


def call_the_model_by_its_name(data: Any) -> Any:
    return {("model_id" if key == "model" else key): value for key, value in data.items()}


def tell_milliseconds_in_seconds(data: Any) -> Any:
    return {
        ("retry_after_s" if key == "retry_after_ms" else key): (value / 1000 if key == "retry_after_ms" else value)
        for key, value in data.items()
    }


UPGRADES: Upgrades = {("receipt", 1): call_the_model_by_its_name, ("receipt", 2): tell_milliseconds_in_seconds}


def test_an_older_version_is_upgraded_step_by_step() -> None:
    first = {
        "action_id": "launch-1",
        "replica_id": "chat-0-g1",
        "model": "chat",
        "outcome": "transient",
        "observed_at": 1,
        "received_at": 2,
        "retry_after_ms": 500,
    }
    second = call_the_model_by_its_name(first)
    wanted = replace(RECEIPT, outcome=Outcome.TRANSIENT, retry_after_s=0.5)
    for version, data in ((1, first), (2, second), (3, encode(wanted))):
        message = json.dumps({"schema": f"tidegate.receipt/{version}", "data": data})
        assert loads(Receipt, message, upgrades=UPGRADES) == wanted


def test_the_version_written_is_one_more_than_the_upgrades() -> None:
    assert schema_version("receipt", UPGRADES) == 3
    assert json.loads(dumps(RECEIPT, upgrades=UPGRADES))["schema"] == "tidegate.receipt/3"
    with pytest.raises(WireError, match="version 3 is newer than 1"):
        loads(Receipt, dumps(RECEIPT, upgrades=UPGRADES))


@pytest.mark.parametrize("hint", [complex, int | str, list[int]], ids=str)
def test_a_type_that_the_wire_has_no_form_for_is_a_programmers_error(hint: Any) -> None:
    with pytest.raises(TypeError):
        codec_of(hint)


def test_a_state_of_nothing_comes_back() -> None:
    assert loads(BrokerState, dumps(BrokerState())) == BrokerState()


def test_a_listing_keeps_its_replicas() -> None:
    listing = PoolSnapshot("a", 1.0, 2.0, True, (ObservedReplica("chat-0-g1", "chat", 1, ReplicaPhase.STARTING),))
    assert loads(Observation, dumps(listing, Observation)) == listing
