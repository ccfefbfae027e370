"""The copy of the compiled kernel on disk is not taken for a fresh one when its sources have changed."""

from __future__ import annotations

from pathlib import Path

from simulator.engine.compiled import fingerprint


def test_the_fingerprint_changes_with_any_source_and_with_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    source = tmp_path / "kernel" / "blocks.py"
    source.write_text("one = 1\n")
    before = fingerprint(tmp_path)
    (tmp_path / "kernel" / "notes.txt").write_text("not compiled")
    assert fingerprint(tmp_path) == before
    source.write_text("one = 2\n")
    assert fingerprint(tmp_path) != before
