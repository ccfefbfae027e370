"""Results lie in the folder whole or not at all, and one sweep at a time writes there."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.model.errors import ConfigError
from simulator.sweep.cells import Candidate, Cell, cell_key, settings_words
from simulator.sweep.design import Setting
from simulator.sweep.store import opened, replace_file
from tests.unit.sweep.runs import candidate, result


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    found = result(candidate("rules", 0.1), key="abc")
    with opened(tmp_path / "out") as folder:
        assert folder.result(found.cell) is None
        folder.keep(found)
    with opened(tmp_path / "out") as folder:
        assert folder.result(found.cell) == found
        assert folder.strangers([found.cell]) == 0
        assert folder.strangers([]) == 1


@pytest.mark.parametrize("damage", [b"", b'{"cell": {', b"[]", b"\xff", b'{"cell": 3, "figures": 4}'])
def test_a_damaged_result_counts_as_none(damage: bytes, tmp_path: Path) -> None:
    found = result(candidate("rules"), key="abc")
    with opened(tmp_path / "out") as folder:
        folder.keep(found)
        (tmp_path / "out" / "cells" / "abc.json").write_bytes(damage)
        assert folder.result(found.cell) is None


def test_a_result_of_another_cell_under_this_name_counts_as_none(tmp_path: Path) -> None:
    found = result(candidate("rules"), key="abc")
    with opened(tmp_path / "out") as folder:
        folder.keep(found)
        assert folder.result(Cell("abc", Candidate("other"), "calm", 1)) is None


def test_nothing_unfinished_stays_in_the_folder(tmp_path: Path) -> None:
    with opened(tmp_path / "out") as folder:
        folder.keep(result(candidate("rules"), key="abc"))
    assert [path.name for path in (tmp_path / "out" / "cells").iterdir()] == ["abc.json"]


def test_a_full_disk_is_told_with_the_file_that_found_no_room(tmp_path: Path) -> None:
    (tmp_path / ".sweep.json.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        replace_file(tmp_path / "sweep.json", b"much")
    assert caught.value.filename == str(tmp_path / "sweep.json")
    assert not list(tmp_path.iterdir())


def test_a_second_sweep_in_the_same_folder_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    second = opened(tmp_path)
    with opened(tmp_path), pytest.raises(ConfigError, match=r"a sweep is at work here: process \d+") as caught:
        second.__enter__()
    assert "--out" in str(caught.value)
    with opened(tmp_path):
        """Free again."""


def test_a_folder_that_holds_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds other things than a sweep"), opened(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"), opened(tmp_path / "out"):
        pass


def test_a_key_hangs_on_all_that_determines_a_run_and_on_no_order() -> None:
    assert cell_key({"a": 1, "b": 2}) == cell_key({"b": 2, "a": 1})
    assert cell_key({"a": 1}) != cell_key({"a": 2})


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ([], ""),
        (["models.chat.max"], "chat.max=1"),
        (["models.chat.policy.rules[queue].above"], "rules[queue].above=1"),
        (["models.chat.max", "models.chat.policy.rules[queue].above"], "max=1 policy.rules[queue].above=1"),
    ],
)
def test_values_are_named_by_what_tells_their_paths_apart(paths: list[str], words: str) -> None:
    assert settings_words(tuple(Setting(path, 1) for path in paths)) == words
