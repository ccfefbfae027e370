"""The published schemas are those of the code, and what the code writes fits them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.model.json_schema import PUBLISHED, envelope_schema, main, schema_files, schema_of, write_schemas
from broker.model.observation import Observation, Outcome, Receipt
from broker.model.signals import RequestSummary
from broker.model.wire import dumps, encode, schema_name
from tests.support.shared_data import REPOSITORY
from tests.support.strategies import values_of

DIRECTORY = REPOSITORY / "docs" / "schemas"
RECEIPT = Receipt("launch-1", "chat-0-g1", "chat", Outcome.ACCEPTED, 1.0, 2.0)


@functools.cache
def validator_of(hint: Any) -> jsonschema.Draft202012Validator:
    return validator(schema_of(hint))


def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", schema_files())
def test_the_committed_schemas_are_current(name: str) -> None:
    committed = (DIRECTORY / name).read_text(encoding="utf-8")
    assert committed == schema_files()[name], "run: make docs"


@pytest.mark.parametrize("hint", PUBLISHED, ids=schema_name)
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_what_is_written_fits_its_schema(hint: Any, data: st.DataObject) -> None:
    value = data.draw(values_of(hint))
    validator_of(hint).validate(json.loads(json.dumps(encode(value, hint))))


@pytest.mark.parametrize(
    ("hint", "data"),
    [
        pytest.param(Receipt, {}, id="a missing field"),
        pytest.param(Receipt, encode(RECEIPT) | {"outcome": "perhaps"}, id="an unknown member"),
        pytest.param(Receipt, encode(RECEIPT) | {"observed_at": "now"}, id="text for a number"),
        pytest.param(Observation, encode(RECEIPT), id="no tag"),
        pytest.param(Observation, {"type": "probe"} | encode(RECEIPT), id="another's tag"),
    ],
)
def test_what_does_not_fit_the_codec_does_not_fit_the_schema(hint: Any, data: Any) -> None:
    assert not validator_of(hint).is_valid(data)


def test_unknown_fields_fit_as_readers_ignore_them() -> None:
    assert validator_of(Receipt).is_valid(encode(RECEIPT) | {"invented_later": 1})


def test_the_envelope_has_a_schema_too() -> None:
    assert validator(envelope_schema()).is_valid(json.loads(dumps(RECEIPT, Observation)))


def test_a_sentence_about_a_field_describes_it() -> None:
    field = schema_of(RequestSummary)["$defs"]["request_summary"]["properties"]["oldest_waiting_since"]
    assert field["description"].startswith("oldest_waiting_since is the arrival time")
    assert field["default"] is None


def test_the_command_writes_the_files(tmp_path: Path) -> None:
    assert main([str(tmp_path / "new" / "schemas")]) == 0
    assert {path.name for path in (tmp_path / "new" / "schemas").iterdir()} == set(schema_files())


def test_the_command_wants_a_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    write_schemas(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_schemas(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
