"""Profile files: the project's own, a user's, and what is wrong with one, by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.model.errors import ConfigError, ConfigErrors
from simulator.profiles.document import CATALOGUE, dump_profile, load_profile, names, read_profile
from simulator.profiles.profile import Method

DEMO = (CATALOGUE / "demo.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", names())
def test_every_profile_loads_by_its_name_and_says_where_its_numbers_come_from(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == profile.engine.name == name
    assert len(profile.summary) > 40
    assert all(value.source for value in (*profile.coefficients.values(), *profile.limits.values()))


@pytest.mark.parametrize("name", names())
def test_a_profile_survives_being_written_and_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "copy.yaml"
    path.write_text(dump_profile(load_profile(name)), encoding="utf-8")
    assert load_profile(str(path)) == load_profile(name)


def test_a_file_from_before_engines_had_to_wake_has_them_wake_at_once(tmp_path: Path) -> None:
    path = tmp_path / "older.yaml"
    lines = DEMO.splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "wakeup_latency_s" not in line), encoding="utf-8")
    profile = read_profile(path)
    assert profile.engine == load_profile("demo").engine
    assert profile.coefficients["wakeup_latency_s"].method is Method.FLOOR


def test_an_unknown_profile_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no engine profile 'h200'; there are demo, demo-trace, h100.*a file's path"):
        load_profile("h200")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        pytest.param(
            "base_s: {value: 0.03,", "base_s: {value: fast,", r":9: coefficients.base_s.value: .*number", id="no number"
        ),
        pytest.param(
            "base_s: {value: 0.03,", "base_s: {value: .nan,", r":9: coefficients.base_s.value: .*finite", id="NaN"
        ),
        pytest.param("base_s:", "base_ms:", "no coefficient base_ms; there are base_s", id="unknown coefficient"),
        pytest.param(
            "max_num_seqs: {value: 16,",
            "max_num_seqs: {value: 16.5,",
            "max_num_seqs: a whole number",
            id="half a sequence",
        ),
        pytest.param("value: 512,", "value: 0,", "num_blocks are at least 1", id="no memory"),
        pytest.param(
            "method: chosen", "method: guessed", r":9: coefficients.base_s.method: .*'measured'", id="unknown method"
        ),
        pytest.param("tensor_parallel: 1", "gpus: 1", "tensor_parallel: Field required", id="missing field"),
        pytest.param(
            "load_time:",
            "valid: {concurrency: [9, 1]}\nload_time:",
            r":21: valid.concurrency: .*from the lower",
            id="range turned round",
        ),
        pytest.param("precision: none", "precision: [", ":8: is not YAML", id="not YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_place(old: str, new: str, problem: str, tmp_path: Path) -> None:
    assert old in DEMO
    path = tmp_path / "mine.yaml"
    path.write_text(DEMO.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigErrors, match=problem):
        read_profile(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(b"", "valid dictionary", id="empty"),
        pytest.param(b"- a\n", "valid dictionary", id="a list"),
        pytest.param(b"name: \xff", "not UTF-8", id="bytes"),
        pytest.param(b"#" * 300_000, "larger than 256 KiB", id="huge"),
    ],
)
def test_what_is_no_profile_at_all_is_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigErrors, match=problem):
        read_profile(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match="cannot be read: No such file"):
        load_profile(str(tmp_path / "absent.yaml"))
