"""Files of saved observations: whole or not there, and refused in words if they are anything else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from broker.model import wire
from broker.model.errors import ConfigError, InvariantViolated
from broker.model.ports import Checkpoint, StepRecord
from broker.model.state import BrokerState, ControlState
from cli.output import Exit
from simulator.checks.saved import SavedObservations, read_saved, write_saved
from simulator.checks.world import Account, World
from tests.support.command_line import tidegate
from tests.support.simulated import SmallRun, small_request


def saved(problem: str = "invariant 9 broken: a request is lost", **changes: Any) -> SavedObservations:
    """Of a run in which everything is in order, whatever is said."""
    run = SmallRun(tail_s=5.0)
    run.run([small_request(0.1 * n) for n in range(20)])
    values: dict[str, Any] = {"world": World(accounts=(Account("requests", 1, 2),))} | changes
    found = run.simulation.saved(InvariantViolated(9, problem.partition(": ")[2]))
    return SavedObservations(
        problem, 9, found.now, found.began_at, found.start, found.steps, values["world"], found.pending
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    kept = saved()
    path = write_saved(kept, tmp_path / "new" / "folder")
    assert path.name == f"tidegate-violation-invariant9-step{kept.steps[-1].number}.json"
    assert read_saved(path) == kept
    assert path.read_text().startswith('{"schema":"tidegate.saved_observations/1",')


def test_no_file_is_written_over(tmp_path: Path) -> None:
    kept = saved()
    names = {write_saved(kept, tmp_path).name for _ in range(3)}
    assert len(names) == 3
    assert {path.name for path in tmp_path.iterdir()} == names


def test_an_error_that_is_none_of_ours_gives_the_file_its_name(tmp_path: Path) -> None:
    start = Checkpoint(7, 1.0, BrokerState(ControlState(last_now=1.0)))
    strange = SavedObservations("Odd/Error: with / and\nmore", None, 1.0, 0.0, start, ())
    assert write_saved(strange, tmp_path).name == "tidegate-violation-odd-error-step7.json"


def bad_files(folder: Path) -> dict[str, Path]:
    text = wire.dumps(saved())
    envelope = json.loads(text)
    gap = json.loads(text)
    del gap["data"]["steps"][1]
    foreign = wire.dumps(StepRecord(1, 1, 0.0, (), {}))
    contents: dict[str, bytes] = {
        "empty": b"",
        "cut off": text[: len(text) // 2].encode(),
        "damaged": text.replace('"problem":', '"probem":').encode(),
        "wrong type": json.dumps(envelope | {"data": envelope["data"] | {"now": "noon"}}).encode(),
        "no object": b"[1, 2]",
        "binary": bytes(range(256)) * 4,
        "foreign": foreign.encode(),
        "newer": text.replace("observations/1", "observations/2").encode(),
        "a gap": json.dumps(gap).encode(),
        "too deep": b"[" * 100_000,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "fifo")
    return {name: folder / name for name in (*contents, "fifo", "missing")} | {"a folder": folder}


KINDS = [
    "empty", "cut off", "damaged", "wrong type", "no object", "binary", "foreign", "newer", "a gap", "too deep", "fifo",
    "missing", "a folder",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_whole_file_of_saved_observations_is_refused_in_words(kind: str, tmp_path: Path) -> None:
    path = bad_files(tmp_path)[kind]
    with pytest.raises(ConfigError) as raised:
        read_saved(path)
    assert str(raised.value).startswith(f"{path}: ")
    result = tidegate("simulate", "--resume-from", path)
    assert result.exit_code == Exit.USAGE
    assert isinstance(result.exception, SystemExit)


def test_a_newer_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="newer than 1, the newest that this Tidegate reads; upgrade it"):
        read_saved(bad_files(tmp_path)["newer"])


def test_a_folder_that_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="cannot be saved"):
        write_saved(saved(), tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


class TestResumeFrom:
    def test_the_same_violation_is_told_with_the_decisions_before_it(self, tmp_path: Path) -> None:
        problem = "invariant 9 broken: requests: 1 where 2 are expected"
        path = write_saved(saved(problem), tmp_path)
        result = tidegate("simulate", "--resume-from", path)
        assert result.exit_code == Exit.FAILED
        assert "chat 1 -> 2 (rule_scale_out:" in result.stdout
        assert "[launch chat-1-g2 in pool (elastic)]" in result.stdout
        words = " ".join(result.stderr.split())
        assert f"{problem}; the same as when it was saved (every step decides as it was recorded)" in words

    def test_another_is_told_beside_the_one_that_was_saved(self, tmp_path: Path) -> None:
        path = write_saved(saved("invariant 4 broken: something"), tmp_path)
        result = tidegate("simulate", "--resume-from", path)
        assert result.exit_code == Exit.FAILED
        assert "it was another: invariant 4 broken: something" in " ".join(result.stderr.split())

    def test_one_that_is_gone_is_a_success(self, tmp_path: Path) -> None:
        path = write_saved(saved(world=None), tmp_path)
        result = tidegate("simulate", "--resume-from", path)
        assert result.exit_code == Exit.OK
        assert "what was saved is gone" in result.stdout

    def test_a_replay_is_told_as_json(self, tmp_path: Path) -> None:
        path = write_saved(saved(world=None), tmp_path)
        told = json.loads(tidegate("simulate", "--resume-from", path, "--json").stdout)
        assert (told["verdict"], told["problem"], told["differs_from"]) == ("gone", "", None)
        assert {"step", "model_id", "trail"} <= told["decisions"][0].keys()

    def test_steps_that_are_decided_otherwise_now_are_told(self, tmp_path: Path) -> None:
        path = write_saved(saved(), tmp_path)
        envelope = json.loads(path.read_text())
        step = next(step for step in envelope["data"]["steps"] if step["decisions"])
        step["decisions"][0]["target"] = 7
        path.write_text(json.dumps(envelope))
        result = tidegate("simulate", "--resume-from", path)
        assert result.exit_code == Exit.OK
        assert f"from step {step['number']} on it is decided otherwise than it was recorded" in result.stdout

    def test_a_policy_that_is_not_here_is_told(self, tmp_path: Path) -> None:
        path = write_saved(saved(), tmp_path)
        path.write_text(path.read_text().replace('"kind":"threshold"', '"kind":"mine"'))
        result = tidegate("simulate", "--resume-from", path)
        assert result.exit_code == Exit.USAGE
        assert "no policy is called 'mine'" in result.stderr

    @pytest.mark.parametrize("words", [["--trace", "t.csv"], ["--policies", "p.yaml"]], ids=" ".join)
    def test_it_goes_with_no_trace(self, words: list[str], tmp_path: Path) -> None:
        assert tidegate("simulate", "--resume-from", tmp_path / "x", *words).exit_code == Exit.USAGE
