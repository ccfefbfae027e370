"""Logs in the Standard Workload Format are read whole; everything else is a clear error with its place."""

from __future__ import annotations

import contextlib
import gzip
import re
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model.errors import TraceError
from tests.support.shared_data import shared_path
from traces.batch.swf import BatchJob, open_batch_log

HEADER = "; Version: 2.2\n; UnixStartTime: 843480031\n; Note: uses: colons\n;\n"
FIRST = "1 0 40 97 56 -1 -1 56 210 -1 1 7 1 -1 2 3 -1 -1\n"
CANCELLED = "2 5 443 0 -1 -1 -1 256 600 -1 5 33 171 -1 -1 10 -1 -1\n"
UNKNOWN = "3 9.5 -1 12 -1 -1 -1 4 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1\n"


def log_file(folder: Path, text: str) -> Path:
    path = folder / "log.swf"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_a_log_becomes_jobs_and_what_is_unknown_is_none(tmp_path: Path) -> None:
    log = open_batch_log(log_file(tmp_path, HEADER + FIRST + CANCELLED + UNKNOWN))
    assert list(log) == [
        BatchJob(1, 0.0, 40.0, 97.0, 56, 210.0, 1, 7, 2, 3),
        BatchJob(2, 5.0, 443.0, 0.0, None, 600.0, 5, 33, None, 10),
        BatchJob(3, 9.5, None, 12.0, 4, None, None, None, None, None),
    ]
    assert (log.statistics.rows, log.statistics.failed, log.statistics.bad) == (3, 1, 0)
    assert log.began_at == 843480031.0
    assert log.header["Note"] == "uses: colons"


def test_compression_is_recognised_by_content_whatever_the_name(tmp_path: Path) -> None:
    plain = open_batch_log(log_file(tmp_path, HEADER + FIRST))
    packed = tmp_path / "packed.txt"
    packed.write_bytes(gzip.compress((HEADER + FIRST).encode()))
    assert list(open_batch_log(packed)) == list(plain)


def test_comments_may_stand_anywhere_and_lines_be_empty_or_indented(tmp_path: Path) -> None:
    text = "\n" + "   " + FIRST + "; a word\n\n" + UNKNOWN
    assert [job.job_id for job in open_batch_log(log_file(tmp_path, text))] == [1, 3]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 5 6", "log.swf:2: 3 columns where the Standard Workload Format has 18"),
        (CANCELLED.replace("443", "4x3"), "log.swf:2:5: wait time: '4x3' is not a number"),
        (CANCELLED.replace("443", "nan"), "log.swf:2:5: wait time: 'nan' is out of range"),
        (CANCELLED.replace("256", "2.5"), "requested processors: '2.5' is not a whole number"),
        (CANCELLED.replace(" 5 443", " -5 443"), "log.swf:2:3: submit time: a job needs one"),
        (FIRST.replace("1 0", "4 -1", 1), "submit time: a job needs one"),
        ("\udcff\udcfe", "1 columns where"),
    ],
)
def test_a_bad_row_stops_the_reading_with_its_place_or_is_counted(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "log.swf"
    path.write_bytes((FIRST + line.rstrip() + "\n" + UNKNOWN).encode("utf-8", "surrogateescape"))
    with pytest.raises(TraceError, match=re.escape(words)):
        list(open_batch_log(path))
    lenient = open_batch_log(path, skip_bad=True)
    assert [job.job_id for job in lenient] == [1, 3]
    assert lenient.statistics.bad == 1
    assert lenient.statistics.first_bad.startswith("line 2")


def test_jobs_must_be_in_the_order_of_their_submission(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"log\.swf:3: submitted 4\.5 s before the row above"):
        list(open_batch_log(log_file(tmp_path, FIRST + UNKNOWN + CANCELLED)))


def submitted(*seconds: float) -> str:
    return "".join(FIRST.replace("1 0", f"{number} {at:g}", 1) for number, at in enumerate(seconds))


@pytest.mark.parametrize("jumped", [(1e9,), (1e9, 1e9 + 60), (2000,)], ids=["far", "two rows", "less than an hour"])
@pytest.mark.parametrize("place", [0, 700], ids=["first", "amid"])
def test_of_a_clock_that_jumps_there_and_back_only_the_rows_that_jumped_are_left_out(
    tmp_path: Path, jumped: tuple[float, ...], place: int
) -> None:
    sound = [float(second) for second in range(1500)]
    path = log_file(tmp_path, submitted(*sound[:place], *jumped, *sound[place:]))
    log = open_batch_log(path, skip_bad=True)
    assert [job.submitted_s for job in log] == sound
    assert log.statistics.bad == len(jumped)
    assert (
        log.statistics.first_bad
        == f"line {place + 1}: submitted after most of the rows below it: the clock jumped there and back"
    )


def test_a_row_that_is_too_early_is_left_out_alone(tmp_path: Path) -> None:
    log = open_batch_log(log_file(tmp_path, submitted(100, 200, 3, 300, 400)), skip_bad=True)
    assert [job.submitted_s for job in log] == [100, 200, 300, 400]
    assert log.statistics.first_bad == "line 3: submitted 197 s before a row above"


def test_who_stops_at_a_row_far_ahead_is_told_of_the_disorder_after_it(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"log\.swf:3: submitted 999995 s before the row above; sort the file"):
        next(iter(open_batch_log(log_file(tmp_path, submitted(0, 1e6, 5, 10)))))


def test_a_gap_of_days_is_no_jump(tmp_path: Path) -> None:
    log = open_batch_log(log_file(tmp_path, submitted(0, 1, 1e6, 1e6, 5e6)), skip_bad=True)
    assert [job.submitted_s for job in log] == [0, 1, 1e6, 1e6, 5e6]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no jobs"),
        (HEADER, "holds no jobs"),
        ("Timestamp,Model\n", "1:1 columns|1 columns"),
        ("; UnixStartTime: yesterday\n" + FIRST, "UnixStartTime: 'yesterday' is not a number"),
    ],
)
def test_a_file_that_is_no_log_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        list(open_batch_log(log_file(tmp_path, text)))


def test_a_missing_file_and_a_truncated_archive_are_errors(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        open_batch_log(tmp_path / "none.swf")
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress((FIRST * 5000).encode())[:-20])
    with pytest.raises(TraceError, match="cut off or damaged"):
        list(open_batch_log(cut))


def test_nothing_but_bad_rows_is_an_error_though_bad_rows_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="none of 2 rows is readable; the first: line 1"):
        list(open_batch_log(log_file(tmp_path, "a b\nc d\n"), skip_bad=True))


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    peaks = []
    for rows in (60_000, 180_000):
        path = log_file(tmp_path, FIRST * rows)
        tracemalloc.start()
        try:
            assert sum(1 for _ in open_batch_log(path)) == rows
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] < 12e6


@given(st.lists(st.text(max_size=80), max_size=5))
def test_whatever_the_file_holds_it_is_read_or_refused_in_words(lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = log_file(Path(folder), FIRST + "\n".join(lines))
        with contextlib.suppress(TraceError):
            assert list(open_batch_log(path))
        assert list(open_batch_log(path, skip_bad=True))


@pytest.mark.parametrize(
    ("name", "jobs", "ran"),
    [("KTH-SP2-1996.swf.gz", 28_489, 28_489), ("CEA-Curie-2012-days00-17.swf.gz", 26_292, 24_765)],
)
def test_the_shared_logs_are_read_whole(name: str, jobs: int, ran: int) -> None:
    log = open_batch_log(shared_path(f"traces/hpc/{name}"))
    assert sum(1 for _ in log) == jobs
    assert (log.statistics.bad, jobs - log.statistics.failed) == (0, ran)
