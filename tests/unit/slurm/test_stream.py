from __future__ import annotations

import json
from collections.abc import Mapping
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


OURS = {"user_name": '"tide"', "comment": '"tidegate:'}


def read(
    content: bytes, piece: int, wanted: Mapping[str, str] | None = None, block: int = 1
) -> tuple[list[Any], dict[str, object]]:
    reader = ListReader("jobs", block=block) if wanted is None else ListReader("jobs", wanted, block)
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
        st.dictionaries(
            st.text(max_size=3) | st.sampled_from(["user_name", "comment"]),
            VALUES | st.sampled_from(["tide", "tidegate: 1", "}", "\n  }", '"user_name": "', {"user_name": "tide"}]),
            max_size=4,
        ),
        max_size=8,
    ),
    st.integers(1, 60),
    st.integers(0, 4),
    st.sampled_from([": ", ":", " : "]),
    st.integers(1, 200),
)
def test_no_object_with_a_field_that_begins_as_is_wanted_is_passed_over(
    jobs: list[dict[str, object]], piece: int, indent: int, colon: str, block: int
) -> None:
    def ours(job: dict[str, object]) -> bool:
        return job.get("user_name") == "tide" or job.get("comment") == "tidegate: 1"

    answer = {"meta": {"a": {}}, "jobs": jobs, "errors": []}
    content = json.dumps(answer, indent=indent, separators=(",", colon)).encode()
    found, rest = read(content, piece, OURS, block)
    assert [job for job in found if ours(job)] == [job for job in jobs if ours(job)]
    assert all(job in jobs for job in found)
    assert rest == {"meta": {"a": {}}, "errors": []}


@pytest.mark.parametrize("block", [1, 700, 2**20])
def test_of_objects_that_begin_alike_hardly_any_that_is_not_wanted_is_read(block: int) -> None:
    def job(number: int) -> dict[str, object]:
        owner = {3: "tide", 7: "tidegate: elsewhere"}.get(number % 10, "other")
        return {"account": "tide", "user_name": owner, "comment": owner, "nodes": [{"account": ""}], "job_id": number}

    answer = {"jobs": [job(number) for number in range(50)], "errors": []}
    found, rest = read(json.dumps(answer, indent=2).encode(), 100, OURS, block)
    numbers = [each["job_id"] for each in found]
    assert [number for number in numbers if number % 10 in (3, 7)] == [3, 7, 13, 17, 23, 27, 33, 37, 43, 47]
    assert rest == {"errors": []}
    if block < 2**20:
        assert len(numbers) < 25


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
