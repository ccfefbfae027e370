"""A report's folder holds a whole report or the one before it, and nobody else's files are written over."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from broker.model.errors import ConfigError
from simulator.report.document import RunReport, loads
from simulator.report.folder import DOCUMENT, PAGE, UNFINISHED, require_folder, write_folder
from simulator.run import Report
from tests.support.reported import document, reported


@pytest.fixture(scope="module")
def report() -> Report:
    return reported()


@pytest.fixture(scope="module")
def told(report: Report) -> RunReport:
    return document(report.facts)


@contextmanager
def files_of_at_most(most_bytes: int) -> Iterator[None]:
    """As a disk that is full: Python is not ended by the signal, its writes fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("most_bytes", [100, 20_000], ids=["of tables", "of the document or the page"])
def test_on_a_full_disk_the_earlier_report_stays_and_the_error_names_the_folder(
    report: Report, told: RunReport, tmp_path: Path, most_bytes: int
) -> None:
    write_folder(tmp_path, told, report.facts)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OSError, match="File too large") as caught, files_of_at_most(most_bytes):
        write_folder(tmp_path, replace(told, notes=("the second",)), report.facts)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_report_that_ends_between_two_of_its_files_has_neither_page_nor_document(
    report: Report, told: RunReport, tmp_path: Path
) -> None:
    """The page and the document of the run before stood beside tables of this one."""
    write_folder(tmp_path, told, report.facts)
    (tmp_path / "replicas.parquet").unlink()
    (tmp_path / "replicas.parquet" / "in the way").mkdir(parents=True)
    earlier = (tmp_path / "requests.parquet").stat().st_ino
    with pytest.raises(OSError, match="directory"):
        write_folder(tmp_path, replace(told, notes=("the second",)), report.facts)
    assert (tmp_path / "requests.parquet").stat().st_ino != earlier
    assert not (tmp_path / PAGE).exists()
    assert not (tmp_path / DOCUMENT).exists()


def test_what_a_killed_process_left_is_known_and_written_over(report: Report, told: RunReport, tmp_path: Path) -> None:
    (tmp_path / UNFINISHED).mkdir()
    (tmp_path / UNFINISHED / "requests.parquet").write_bytes(b"PAR1")
    require_folder(tmp_path)
    write_folder(tmp_path, told, report.facts)
    assert loads((tmp_path / DOCUMENT).read_bytes()) == told
    assert not (tmp_path / UNFINISHED).exists()


def test_an_earlier_report_may_be_replaced_and_so_may_nothing(report: Report, told: RunReport, tmp_path: Path) -> None:
    require_folder(tmp_path / "new" / "one")
    write_folder(tmp_path / "new" / "one", told, report.facts)
    require_folder(tmp_path / "new" / "one")


@pytest.mark.parametrize(
    "files",
    [
        {PAGE: "<p>our chess club</p>"},
        {PAGE: "<p>our chess club</p>", DOCUMENT: '{"schema": "chess.report/1", "data": {}}'},
        {DOCUMENT: ""},
        {"notes.txt": "mine"},
    ],
    ids=["a page", "a page and a document", "an empty document", "notes"],
)
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="holds something that is no report"):
        require_folder(tmp_path)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="is no folder"):
        require_folder(tmp_path / "report")
