"""Some cells cannot be run: each says why, the others are run, and the exit status tells."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import run
from tests.support.sweeps import ONE_CELL, POLICIES, SWEEP, small_sweep

pytestmark = pytest.mark.integration

ONE_SEED = SWEEP.replace("seeds: [1, 2]", "seeds: [1]")


def swept(folder: Path, text: str) -> tuple[int, Any, str]:
    file = small_sweep(folder, text)
    status, told, errors = run("sweep", file, "--out", folder / "out", "--jobs", "1", "--json", folder=folder)
    return status, json.loads(told) if told else None, errors


def causes(found: Any) -> set[str]:
    return {failure["cause"] for failure in found["failed"]}


def test_a_value_that_the_policies_file_does_not_allow_fails_its_cells_only(tmp_path: Path) -> None:
    text = ONE_SEED.replace("'models.chat.policy.rules[queue].above': [1s, 4s]", "models.chat.max: [3, 0]")
    text = text.replace("knob: models.chat.policy.rules[queue].above", "knob: models.chat.max")
    status, found, errors = swept(tmp_path, text)
    assert status == 1
    assert (len(found["cells"]), len(found["failed"])) == (2, 2)
    [cause] = causes(found)
    assert "policies.yaml:" in cause
    assert "models.chat.max: 0 is less than min, which is 1" in cause
    assert "2 of 4 cells failed" in errors


def test_a_trace_that_cannot_be_read_fails_its_cells_only(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,a,x,1,1,b\n"
    )
    unreadable = "".join(f"      {name}: {{source: {{kind: trace, path: {name}.csv}}}}\n" for name in ("bad", "none"))
    text = ONE_SEED.replace("    report:\n", unreadable + "    report:\n")
    status, found, _ = swept(tmp_path, text)
    assert status == 1
    assert len(found["cells"]) == 4
    assert any("bad.csv:2" in cause for cause in causes(found))
    assert any("none.csv" in cause for cause in causes(found))
    assert found["ranking"] == [], "no setting was run on all that it is ranked by"


def test_a_model_that_fits_no_pool_says_so(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("cluster: small\npools: {local: {kind: local, gpus: 2}}\n")
    text = ONE_SEED.replace("    policies:\n", "    site: site.yaml\n    policies:\n", 1)
    text = text.replace("'models.chat.policy.rules[queue].above': [1s, 4s]", "models.chat.gpus: [1, 4]")
    text = text.replace("knob: models.chat.policy.rules[queue].above", "knob: models.chat.gpus")
    status, found, _ = swept(tmp_path, text)
    assert status == 1
    assert len(found["cells"]) == 2
    [cause] = causes(found)
    assert "a replica of chat takes 4 GPUs, and its largest pool has 2" in cause


def test_a_run_that_takes_longer_than_it_may_says_so(tmp_path: Path) -> None:
    status, found, errors = swept(tmp_path, f"{ONE_CELL}    cell_time_limit: 1ms\n")
    assert status == 1
    assert causes(found) == {"it took longer than the time limit of 0.001s"}
    assert "1 of 1 cell failed" in errors


def test_all_of_a_sweep_may_fail_and_is_told_without_a_table(tmp_path: Path) -> None:
    text = ONE_SEED.replace("profile: burstgpt1_conv, rate: 2", "profile: burstgpt1_conv, rate: 0.000001")
    text = text.replace("profile: burstgpt1_conv, rate: 4", "profile: burstgpt1_conv, rate: 0.000001")
    file = small_sweep(tmp_path, text)
    status, told, errors = run("sweep", file, "--out", tmp_path / "out", "--jobs", "1", folder=tmp_path)
    assert status == 1
    assert "no request of calm was sent" in told
    assert "4 of 4 cells failed" in errors


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rules[queue].above", "rules[queues].above", "has no 'queues'; did you mean queue?"),
        ("models.chat.policy.rules[queue].above", "models.chat.maxi", "unknown field; did you mean max?"),
        ("file: policies.yaml", "file: missing.yaml", "missing.yaml: there is no such file"),
    ],
    ids=["an item that is not there", "a field that is not there", "a file that is not there"],
)
def test_a_mistake_of_the_file_itself_is_refused_before_anything_runs(
    old: str, new: str, words: str, tmp_path: Path
) -> None:
    status, _, errors = swept(tmp_path, ONE_SEED.replace(old, new))
    assert status == 2
    assert words in errors
    assert not (tmp_path / "out").exists()


def test_a_scenario_that_asks_for_a_model_which_one_policies_file_lacks_fails_there_only(tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text(
        "duration: 20s\nmodels:\n"
        "  chat: {loads: {people: {source: {kind: generated, profile: burstgpt1_conv, rate: 2},\n"
        "    clients: {patience: 5s, retries: 1}}}}\n"
        "  code: {loads: {programs: {source: {kind: generated, profile: azure2023_conv, rate: 1}}}}\n"
    )
    both = textwrap.dedent(POLICIES).lstrip("\n")
    both += both.partition("models:\n")[2].replace("chat:", "code:", 1)
    (tmp_path / "both.yaml").write_text(both)
    text = ONE_SEED.replace(
        "{kind: generated, profile: burstgpt1_conv, rate: 2}, duration: 20s", "{kind: scenario, path: scenario.yaml}"
    )
    text = text.replace("    policies:\n", "    policies:\n      both: {file: both.yaml}\n", 1)
    status, found, _ = swept(tmp_path, text)
    assert status == 1
    [cause] = causes(found)
    assert "calm asks code; the policies have chat" in cause
    asked = [cell for cell in found["cells"] if cell["cell"]["demand"] == "calm"]
    assert [cell["cell"]["candidate"]["policy"] for cell in asked] == ["both"]
    assert set(found["objectives"]) == {"", "chat", "code"}
