"""The reference and the editors' schemas are those of the code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from broker.app.settings import policies_json_schema, site_json_schema
from broker.app.settings.__main__ import main
from broker.app.settings.document import read_document
from broker.app.settings.reference import (
    cluster_json_schema,
    configuration_markdown,
    reference_files,
    scenario_json_schema,
    sweep_json_schema,
)
from tests.support.shared_data import REPOSITORY
from tests.unit.settings.files import EXAMPLES


@pytest.mark.parametrize("name", reference_files())
def test_the_committed_files_are_current(name: str) -> None:
    committed = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
    assert committed == reference_files()[name], "run: make docs"


def schema_for(path: Path) -> dict[str, Any]:
    kind = path.name.partition(".")[0].partition("-")[0]
    schemas = {
        "cluster": cluster_json_schema,
        "policies": policies_json_schema,
        "scenario": scenario_json_schema,
        "site": site_json_schema,
        "sweep": sweep_json_schema,
    }
    return schemas[kind]()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_fit_the_schemas_for_editors(path: Path) -> None:
    schema = schema_for(path)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(read_document(path).data)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_name_their_schema(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (path.parent / first.partition("=")[2]).resolve().is_file()


@pytest.mark.parametrize(
    "data",
    [
        {"models": {"chat": {"engine": {"command": ["serve"]}, "maxx": 3}}},
        {"models": {"chat": {"engine": {"command": ["serve"]}, "load_timeout": "soon"}}},
        {"models": {"chat": {"engine": {"command": ["serve"]}, "policy": {"kind": "magic"}}}},
    ],
    ids=["an unknown field", "a bad duration", "an unknown policy"],
)
def test_what_is_wrong_does_not_fit(data: dict[str, Any]) -> None:
    assert not jsonschema.Draft202012Validator(policies_json_schema()).is_valid(data)


def test_every_field_has_a_meaning_and_a_value() -> None:
    rows = [line for line in configuration_markdown().splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 4, row
        assert all(cells), row
        assert cells[3].endswith("."), row


def test_the_command_writes_the_files(tmp_path: Path) -> None:
    assert main([str(tmp_path / "docs")]) == 0
    assert all((tmp_path / "docs" / name).is_file() for name in reference_files())


def test_the_command_wants_a_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
