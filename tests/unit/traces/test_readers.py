"""Known formats are read whole; everything else is a clear error with its place."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model.errors import TraceError
from tests.unit.traces.files import (
    AZURE,
    AZURE_ZONES,
    BURSTGPT,
    BURSTGPT_3,
    MOONCAKE,
    burstgpt_at,
    written,
    zipped,
)
from traces.columns import text_number
from traces.formats import epoch_seconds
from traces.options import RequestKind
from traces.ordering import REORDER_ROWS
from traces.readers import open_trace
from traces.schema import TraceRequest, replayable

CONVERSATION, API = RequestKind.CONVERSATION, RequestKind.API


def test_burstgpt_rows_become_requests_and_an_answer_of_no_tokens_is_a_failure(tmp_path: Path) -> None:
    trace = open_trace(written(tmp_path, BURSTGPT))
    assert trace.format.name == "BurstGPT"
    assert list(trace) == [
        TraceRequest(0.0, 100, 20, kind=CONVERSATION, model="ChatGPT"),
        TraceRequest(1.0, 200, 0, failed=True, kind=API, model="GPT-4"),
        TraceRequest(2.5, 300, 40, model="ChatGPT"),
    ]
    assert (trace.statistics.rows, trace.statistics.failed, trace.statistics.began_at) == (3, 1, 10.0)


def test_failed_requests_are_counted_and_not_replayed(tmp_path: Path) -> None:
    trace = open_trace(written(tmp_path, BURSTGPT))
    assert [request.prompt_tokens for request in replayable(trace)] == [100, 300]
    assert trace.statistics.failed == 1


def test_burstgpt_3_brings_sessions_and_columns_in_another_order(tmp_path: Path) -> None:
    assert list(open_trace(written(tmp_path, BURSTGPT_3))) == [
        TraceRequest(0.0, 100, 20, session=text_number("alpha"), kind=CONVERSATION, model="ChatGPT"),
        TraceRequest(1.0, 50, 5, kind=API, model="ChatGPT"),
        TraceRequest(2.0, 150, 20, session=text_number("alpha"), kind=CONVERSATION, model="ChatGPT"),
    ]


def test_azure_times_are_read_across_midnight_of_a_leap_day(tmp_path: Path) -> None:
    trace = open_trace(written(tmp_path, AZURE))
    first, second = trace
    assert (first.arrival_s, first.prompt_tokens, first.output_tokens) == (0.0, 400, 50)
    assert second.arrival_s == pytest.approx(0.5, abs=1e-6)
    assert trace.statistics.began_at == pytest.approx(1709251199.9, abs=1e-6)


def test_azure_times_may_carry_a_zone(tmp_path: Path) -> None:
    arrivals = [request.arrival_s for request in open_trace(written(tmp_path, AZURE_ZONES))]
    assert arrivals == [0.0, 1.5, 3.0, 4.0]


@pytest.mark.parametrize("zone", ["+99:99", "-15:00", "+05:60"])
@pytest.mark.parametrize("quoted", [False, True], ids=["by columns", "row by row"])
def test_a_time_zone_that_is_nowhere_is_a_bad_row(tmp_path: Path, zone: str, quoted: bool) -> None:
    at = f"2024-01-01 00:00:00{zone}"
    row = f'"{at}",3,4' if quoted else f"{at},3,4"
    with pytest.raises(TraceError, match="has a time zone that is nowhere"):
        list(open_trace(written(tmp_path, f"TIMESTAMP,ContextTokens,GeneratedTokens\n{row}\n")))


def test_a_column_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="more than one column is called 'Request tokens'"):
        list(open_trace(written(tmp_path, "Timestamp,Request tokens,Request tokens,Response tokens\n10,1,2,3\n")))


def test_mooncake_lines_are_in_milliseconds_and_their_hashes_make_groups(tmp_path: Path) -> None:
    assert list(open_trace(written(tmp_path, MOONCAKE))) == [
        TraceRequest(0.0, 700, 30, prefix_group=0),
        TraceRequest(0.25, 800, 40, prefix_group=0, prefix_tokens=512),
    ]


@pytest.mark.parametrize("content", [BURSTGPT, BURSTGPT_3, AZURE, MOONCAKE], ids=["v1", "v3", "azure", "mooncake"])
def test_compression_is_recognised_by_content_whatever_the_name(tmp_path: Path, content: str) -> None:
    plain = list(open_trace(written(tmp_path, content, "a.gz")))
    assert list(open_trace(zipped(tmp_path, content, "b.csv"))) == plain


def test_a_byte_order_mark_and_quotes_do_not_hide_the_columns(tmp_path: Path) -> None:
    content = '\ufeff"TIMESTAMP","ContextTokens","GeneratedTokens"\n"2024-01-01 00:00:00","3","4"\n'
    assert list(open_trace(written(tmp_path, content))) == [TraceRequest(0.0, 3, 4)]


def test_a_trace_can_be_read_twice_and_counts_each_time_anew(tmp_path: Path) -> None:
    trace = open_trace(written(tmp_path, BURSTGPT))
    assert list(trace) == list(trace)
    assert trace.statistics.rows == 3


BAD_ROWS = {
    "negative tokens": ("11,-5,6", "3:4: Request tokens: '-5' is negative"),
    "not a number": ("11,7,many", "3:6: Response tokens: 'many' is not a whole number"),
    "half a token": ("11,7,1.5", "3:6: Response tokens: '1.5' is not a whole number"),
    "too many tokens": ("11,999999999,1", "3:4: Request tokens: '999999999' is more tokens"),
    "endless digits": (f"11,{'9' * 5000},1", "3:4: Request tokens: '999"),
    "no time": (",7,8", "3:1: Timestamp: '' is not a number of seconds"),
    "NaN": ("nan,7,8", "3:1: Timestamp: 'nan' is not a point in time"),
    "infinite": ("inf,7,8", "3:1: Timestamp: 'inf' is not a point in time"),
    "microseconds": ("1700000000000000,7,8", "3:1: Timestamp: '1700000000000000' is not a point in time in seconds"),
    "quotes that do not close": (b'1"1\r,7,8', "3: not comma-separated: "),
    "too few columns": ("11,7", "3: 2 columns where the header has 3"),
    "too many columns": ("11,7,8,9", "3: 4 columns where the header has 3"),
    "garbage bytes": (b"11,\xff\xfe,8", "3:4: not UTF-8 text"),
    "NUL bytes": (b"11,\0\0,8", "3:4: Request tokens: "),
}


@pytest.mark.parametrize(("row", "message"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_bad_row_is_named_by_file_line_and_column_or_counted(tmp_path: Path, row: str | bytes, message: str) -> None:
    bad = row.encode() if isinstance(row, str) else row
    path = written(tmp_path, b"Timestamp,Request tokens,Response tokens\n10,1,2\n" + bad + b"\n12,3,4\n")
    with pytest.raises(TraceError) as caught:
        list(open_trace(path))
    assert str(caught.value).startswith(f"{path}:{message}")
    lenient = open_trace(path, skip_bad=True)
    assert [request.prompt_tokens for request in lenient] == [1, 3]
    assert (lenient.statistics.rows, lenient.statistics.bad) == (2, 1)
    assert lenient.statistics.first_bad.startswith("line 3")


BAD_LINES = {
    "not JSON": ('{"timestamp": 1,', "3:17: not JSON: "),
    "not an object": ("[1]", "3: not a JSON object"),
    "missing field": ('{"timestamp": 1, "input_length": 2}', "3: output_length: missing"),
    "wrong type": ('{"timestamp": 1, "input_length": true, "output_length": 3}', "3:18: input_length: 'True' is not"),
    "nested too deep": ("[" * 100_000, "3: not JSON: "),
    "NaN": ('{"timestamp": NaN, "input_length": 2, "output_length": 3}', "3:2: timestamp: 'nan' is not a point"),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_json_line_is_named_by_file_line_and_column(tmp_path: Path, line: str, message: str) -> None:
    good = '{"timestamp": 0, "input_length": 2, "output_length": 3}\n'
    path = written(tmp_path, f"{good}{good}{line}\n")
    with pytest.raises(TraceError) as caught:
        list(open_trace(path))
    assert str(caught.value).startswith(f"{path}:{message}")


BAD_TIMES = [
    "",
    "yesterday",
    "2023-13-01 00:00:00",
    "2023-02-30 00:00:00",
    "2023-01-01 24:00:00",
    "2023-01-01 00:60:00",
]


@pytest.mark.parametrize("text", BAD_TIMES)
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        epoch_seconds(text)


BAD_FILES = {
    "empty": (b"", "the file is empty"),
    "header only": (b"Timestamp,Request tokens,Response tokens\n", "holds no rows after its header"),
    "unknown columns": (b"time,in,out\n1,2,3\n", "no known format has the columns 'time, in, out'"),
    "unknown JSON": (b'{"ts": 1}\n', "no known format has the columns 'ts'"),
    "binary": (bytes(range(128, 256)) * 20, "not UTF-8 text"),
    "no line breaks": (b"x" * (3 << 20), "longer than 1 MiB"),
    "only bad rows": (b"Timestamp,Request tokens,Response tokens\nx,1,2\n", "none of 1 rows is readable"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(TraceError, match=message) as caught:
        list(open_trace(path, skip_bad=True))
    assert caught.value.path == str(path)


def test_unknown_columns_are_answered_with_the_known_formats(tmp_path: Path) -> None:
    with pytest.raises(TraceError) as caught:
        open_trace(written(tmp_path, "time,in,out\n"))
    for name in ("BurstGPT", "Azure", "Mooncake", "ContextTokens", "output_length"):
        assert name in str(caught.value)


def test_a_truncated_or_damaged_archive_is_an_error_even_when_bad_rows_are_skipped(tmp_path: Path) -> None:
    whole = zipped(tmp_path, burstgpt_at(float(n) for n in range(50_000))).read_bytes()
    damaged = whole[: len(whole) // 2] + bytes(100) + whole[len(whole) // 2 + 100 :]
    for content in (whole[: len(whole) // 2], damaged):
        with pytest.raises(TraceError, match="cut off or damaged"):
            list(open_trace(written(tmp_path, content), skip_bad=True))


def test_what_is_not_a_readable_file_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        open_trace(tmp_path / "absent")
    with pytest.raises(TraceError, match="not a regular file"):
        open_trace(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TraceError, match="not a regular file"):
        open_trace(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused_in_words(tmp_path: Path) -> None:
    path = written(tmp_path, BURSTGPT)
    path.chmod(0)
    with pytest.raises(TraceError, match="may not read"):
        open_trace(path)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file whose reading fails")
def test_a_failing_disk_is_an_error_in_words() -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        open_trace("/proc/self/mem")


def test_rows_out_of_order_are_sorted_within_the_buffer(tmp_path: Path) -> None:
    timestamps = [float(n) for n in range(3 * REORDER_ROWS)]
    timestamps[10], timestamps[REORDER_ROWS] = timestamps[REORDER_ROWS], timestamps[10]
    arrivals = [request.arrival_s for request in open_trace(written(tmp_path, burstgpt_at(timestamps)))]
    assert arrivals == sorted(timestamps)


def test_a_row_too_far_out_of_order_is_refused_with_how_far(tmp_path: Path) -> None:
    timestamps = [float(n) for n in range(3 * REORDER_ROWS)]
    timestamps[-1] = 7.0
    path = written(tmp_path, burstgpt_at(timestamps))
    with pytest.raises(
        TraceError, match=r":12289: \d+ s before a row more than 4096 rows above; sort the file by time"
    ):
        list(open_trace(path))
    lenient = open_trace(path, skip_bad=True)
    assert sum(1 for _ in lenient) == len(timestamps) - 1
    assert lenient.statistics.bad == 1


@settings(max_examples=50)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=60))
def test_whatever_the_order_of_rows_requests_come_in_order_and_all_of_them(
    tmp_path_factory: pytest.TempPathFactory, timestamps: list[float]
) -> None:
    path = written(tmp_path_factory.mktemp("traces"), burstgpt_at(timestamps))
    requests = list(open_trace(path))
    assert [request.arrival_s for request in requests] == sorted(t - min(timestamps) for t in timestamps)
    assert sorted(request.prompt_tokens for request in requests) == list(range(len(timestamps)))


@settings(max_examples=200)
@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_raise_anything_but_a_trace_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, skip_bad: bool
) -> None:
    folder = tmp_path_factory.mktemp("traces")
    for prefix in (b"", b"\x1f\x8b\x08", b"Timestamp,Request tokens,Response tokens\n", MOONCAKE.encode()):
        with contextlib.suppress(TraceError):
            list(open_trace(written(folder, prefix + content), skip_bad=skip_bad))
