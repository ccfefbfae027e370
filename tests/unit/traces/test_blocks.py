"""Blocks keep every request through merging, and what the reader holds does not grow with the file."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model.errors import TraceError
from tests.unit.traces.files import written, zipped
from traces.blocks import MOST_NAMES, Names, RequestBlock, joined, merged, request_block
from traces.readers import open_trace

times = st.lists(st.floats(0, 100), max_size=30).map(sorted)


def blocks_of(arrivals: list[float], stream: int, rows: int) -> list[RequestBlock]:
    block = request_block(arrivals, range(len(arrivals)), np.full(len(arrivals), stream))
    return [block.take(slice(n, n + rows)) for n in range(0, len(arrivals), rows)]


@given(st.lists(times, min_size=1, max_size=4), st.integers(1, 7))
def test_merged_streams_hold_every_request_in_order(streams: list[list[float]], rows: int) -> None:
    makers = [(lambda n=n, arrivals=arrivals: iter(blocks_of(arrivals, n, rows))) for n, arrivals in enumerate(streams)]
    found = list(merged(makers))
    expected = sorted((at, n, row) for n, arrivals in enumerate(streams) for row, at in enumerate(arrivals))
    if not expected:
        assert found == []
        return
    whole = joined(found)
    rows_found = list(
        zip(whole.arrival_s.tolist(), whole.output_tokens.tolist(), whole.prompt_tokens.tolist(), strict=True)
    )
    assert [row[0] for row in rows_found] == [row[0] for row in expected]
    assert sorted(rows_found) == expected


def test_a_column_of_ever_new_names_is_refused() -> None:
    names = Names("tenants")
    for number in range(MOST_NAMES):
        assert names.code(str(number)) == number
    assert (names.code("7"), names.code("")) == (7, -1)
    with pytest.raises(TraceError, match="more than 10000 different tenants"):
        names.code("one more")


def azure(rows: int) -> str:
    return "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
        f"2024-05-{1 + n // 86400:02} {n // 3600 % 24:02}:{n // 60 % 60:02}:{n % 60:02}.5000000,{n % 4000},{n % 90}\n"
        for n in range(rows)
    )


def burstgpt_3(rows: int) -> str:
    return "Timestamp,Session ID,Model,Request tokens,Response tokens,Log Type\n" + "".join(
        f"{n},session {n // 3},GPT-4,{n % 4000},{n % 90},API log\n" for n in range(rows)
    )


def peak_bytes(path: Path) -> int:
    tracemalloc.start()
    try:
        for _ in open_trace(path).blocks():
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [azure, burstgpt_3])
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
def test_reading_takes_the_same_memory_whatever_the_files_size(
    tmp_path: Path, content: Callable[[int], str], compressed: bool
) -> None:
    write = zipped if compressed else written
    short, long = (write(tmp_path, content(rows), f"{rows}") for rows in (100_000, 400_000))
    peak_bytes(short)  # caches of the first pass are not the trace's memory
    assert peak_bytes(long) <= 1.1 * peak_bytes(short)
    assert peak_bytes(long) < 24e6


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.integers(0, 10**7).map(str), st.floats(0, 1e9).map(repr), st.decimals(0, 10**6, places=3).map(str)
            ),
            st.integers(0, 10**6),
            st.sampled_from(["0", "7", "007", "42.0", "99999999"]),
            st.text(st.characters(codec="utf-8", exclude_characters='",\r\n'), max_size=70),
            st.sampled_from(["Conversation log", "API log", "api log ", "", "other"]),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_by_column_and_by_row_a_file_reads_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, str, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("traces")
    header = "Timestamp,Request tokens,Response tokens,Session ID,Log Type"
    plain = "\n".join([header, *(",".join(str(cell) for cell in row) for row in rows)])
    quoted = "\n".join([header, *(",".join(f'"{cell}"' for cell in row) for row in rows)])
    assert list(open_trace(written(folder, plain, "plain"))) == list(open_trace(written(folder, quoted, "quoted")))


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.datetimes(),
            st.sampled_from([" ", "T"]),
            st.sampled_from(["", ".5", ".1234567", ".000000001"]),
            st.sampled_from(["", "Z", "+02:00", "-04:30"]),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_dates_by_column_and_by_row_read_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[object, str, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("traces")
    texts = [
        f"{when:%Y}".zfill(4) + f"{when:-%m-%d}{mark}{when:%H:%M:%S}{part}{zone}" for when, mark, part, zone in rows
    ]
    header = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    plain = written(folder, header + "".join(f"{text},1,1\n" for text in texts), "plain")
    quoted = written(folder, header + "".join(f'"{text}",1,1\n' for text in texts), "quoted")
    assert list(open_trace(plain)) == list(open_trace(quoted))


def test_a_gzip_member_after_another_is_read_too(tmp_path: Path) -> None:
    halves = gzip.compress(b"Timestamp,Request tokens,Response tokens\n1,2,3\n") + gzip.compress(b"2,3,4\n")
    assert [request.prompt_tokens for request in open_trace(written(tmp_path, halves))] == [2, 3]
