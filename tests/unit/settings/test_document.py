"""A YAML file is read as it looks, or refused with its line."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.app.settings.document import LARGEST_BYTES, dotted, read_document
from broker.model.errors import ConfigErrors
from tests.unit.settings.files import refusal, written


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        pytest.param("no", "no", id="no is not false"),
        pytest.param("on", "on", id="on is not true"),
        pytest.param("true", True, id="true"),
        pytest.param("False", False, id="False"),
        pytest.param("18:00", "18:00", id="a time of day is not a number to base 60"),
        pytest.param("2030-12-24", "2030-12-24", id="a date is text"),
        pytest.param("+1", 1, id="a number with its sign"),
        pytest.param("010", 10, id="a leading zero is not octal"),
        pytest.param("0.5", 0.5, id="a fraction"),
        pytest.param("1e3", 1000.0, id="an exponent"),
        pytest.param("1_000", "1_000", id="no underscores in numbers"),
        pytest.param(".inf", ".inf", id="no infinity"),
        pytest.param("~", None, id="null"),
        pytest.param("", None, id="nothing"),
        pytest.param('"3"', "3", id="a quoted number is text"),
        pytest.param("'true'", "true", id="a quoted truth is text"),
        pytest.param("9" * 5000, math.inf, id="digits without end"),
    ],
)
def test_a_scalar_is_what_it_looks_like(tmp_path: Path, scalar: str, value: object) -> None:
    assert read_document(written(tmp_path, f"key: {scalar}")).data == {"key": value}


def test_every_value_knows_its_line(tmp_path: Path) -> None:
    document = read_document(written(tmp_path, "a:\n  b:\n    - one\n    - c: two\n"))
    assert document.lines == {
        (): 1,
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "b", 0): 3,
        ("a", "b", 1): 4,
        ("a", "b", 1, "c"): 4,
    }
    missing = document.problem(("a", "b", 1, "missing"), "is missing")
    assert (missing.line, missing.field) == (4, "a.b[1].missing")


def test_an_alias_stands_for_a_value(tmp_path: Path) -> None:
    assert read_document(written(tmp_path, "a: &x [1, 2]\nb: *x\n")).data == {"a": [1, 2], "b": [1, 2]}


def test_a_key_that_stands_twice_is_told_with_both_lines(tmp_path: Path) -> None:
    document = read_document(written(tmp_path, "a: 1\nb: {c: 1, c: 2}\na: 3\n"))
    assert [str(problem).rpartition("yaml:")[2] for problem in document.problems] == [
        "2: b.c: stands a second time; the first is in line 2",
        "3: a: stands a second time; the first is in line 1",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "the file is empty", id="empty"),
        pytest.param("# only a remark\n", "the file is empty", id="a remark only"),
        pytest.param("a:\n\tb: 1\n", "2: a tab in the indentation; YAML wants spaces", id="tab"),
        pytest.param("a: [1, 2\nb: 3\n", "is not YAML", id="an open bracket"),
        pytest.param("a: 1\n---\na: 2\n", "a second document begins here", id="two documents"),
        pytest.param("a: *nobody\n", "1: is not YAML: found undefined alias", id="an alias for nothing"),
        pytest.param("a: \x07\n", "1: a control character", id="a bell"),
        pytest.param("[" * 50_000, "is nested too deeply", id="nested to exhaustion"),
        pytest.param("a: &a [*a]\n", "contains itself by an alias", id="a value inside itself"),
        pytest.param(
            "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)),
            "aliases make more than",
            id="a billion laughs",
        ),
    ],
)
def test_what_is_not_a_document_is_refused(tmp_path: Path, text: str, words: str) -> None:
    assert words in refusal(read_document, written(tmp_path, text))[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("a: !!python/object:os.system x\n", "the tag", id="a tag that runs code"),
        pytest.param("a: !!binary aGk=\n", "the tag", id="a tag of YAML's own"),
        pytest.param("a: {<<: {b: 1}}\n", "merging (<<) is not supported", id="merging"),
        pytest.param("? [a, b]\n: 1\n", "a name must be plain text", id="a list for a name"),
    ],
)
def test_what_we_do_not_support_is_told(tmp_path: Path, text: str, words: str) -> None:
    document = read_document(written(tmp_path, text))
    assert words in str(document.problems[0])


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert refusal(read_document, tmp_path / "none.yaml") == ["there is no such file"]


def test_a_folder_for_a_file_is_told(tmp_path: Path) -> None:
    assert refusal(read_document, tmp_path) == ["cannot be read: Is a directory"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, "a: 1")
    path.chmod(0)
    assert refusal(read_document, path) == ["cannot be read: Permission denied"]


def test_a_file_in_another_encoding_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("a: 1\nb: süd\n".encode("latin-1"))
    assert refusal(read_document, path) == ["2: is not UTF-8 text"]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "marked.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_document(path).data == {"a": 1}


def test_a_giant_is_not_even_parsed(tmp_path: Path) -> None:
    path = tmp_path / "giant.yaml"
    path.write_bytes(b"a: 1\n" * (LARGEST_BYTES // 5 + 1))
    assert "is larger than" in refusal(read_document, path)[0]


@given(st.binary(max_size=60) | st.text("ab:-[]{}&*!|>'\"#%@ \n\t~<", max_size=60).map(str.encode))
def test_whatever_the_bytes_the_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(raw)
    with contextlib.suppress(ConfigErrors):
        assert read_document(path).lines


def test_a_place_is_written_with_dots_and_brackets() -> None:
    assert dotted(("models", "chat", "rules", 0, "for")) == "models.chat.rules[0].for"
