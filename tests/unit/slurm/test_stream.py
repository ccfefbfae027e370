from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actuators.slurm.rest.stream import ListReader

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


def read(content: bytes, piece: int, words: tuple[str, ...] = ("",)) -> tuple[list[Any], dict[str, object]]:
    reader = ListReader("jobs", words)
    found: list[Any] = []
    for at in range(0, len(content), piece):
        found += reader.feed(content[at : at + piece])
    found += reader.end()
    return found, reader.rest


@given(
    st.lists(VALUES, max_size=5),
    st.dictionaries(st.text().filter(lambda name: name != "jobs"), VALUES, max_size=4),
    st.booleans(),
    st.integers(1, 50),
    st.sampled_from([None, 1]),
)
def test_an_answer_in_pieces_is_read_as_one(
    jobs: list[object], rest: dict[str, object], first: bool, piece: int, indent: int | None
) -> None:
    answer = {"jobs": jobs, **rest} if first else {**rest, "jobs": jobs}
    assert read(json.dumps(answer, indent=indent).encode(), piece) == (jobs, rest)


@given(
    st.lists(
        st.dictionaries(st.text(max_size=3), VALUES | st.sampled_from(["tide", "}", "\n  }"]), max_size=4), max_size=8
    ),
    st.integers(1, 60),
    st.integers(0, 4),
)
def test_objects_without_the_words_are_passed_over_and_no_others(
    jobs: list[dict[str, object]], piece: int, indent: int
) -> None:
    answer = {"meta": {"a": {}}, "jobs": jobs, "errors": []}
    found, rest = read(json.dumps(answer, indent=indent).encode(), piece, words=('"tide"',))
    assert [job for job in found if "tide" in job.values()] == [job for job in jobs if "tide" in job.values()]
    assert all(job in jobs for job in found)
    assert rest == {"meta": {"a": {}}, "errors": []}


def test_bytes_that_are_no_text_and_raw_control_characters_do_not_hide_the_others() -> None:
    content = b'{"jobs": [{"comment": "\xff\xfe\n\x01"}, {"job_id": 2}], "errors": []}'
    found, _ = read(content, 7)
    assert found[1] == {"job_id": 2}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"Authentication failure",
        b"{}",
        b'{"jobs": [1, 2',
        b'{"jobs": [1, 2]',
        b'{"jobs": 3}',
        b'{"jobs": [tr]}',
    ],
)
def test_what_was_cut_or_is_no_such_answer_is_told(content: bytes) -> None:
    with pytest.raises(ValueError, match="jobs"):
        read(content, 5)
