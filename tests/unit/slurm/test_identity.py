"""A job's comment says whose it is, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actuators.slurm.identity import JobIdentity, parse_comment

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(st.builds(JobIdentity, names, names, names, st.integers(0, 10**18 - 1)))
def test_what_a_comment_says_is_read_back_whatever_the_names(identity: JobIdentity) -> None:
    assert parse_comment(identity.comment) == identity
    assert identity.comment.isascii()
    assert identity.comment.isprintable()
    assert not set(identity.comment) & set("\"'`$\\;|&<>\t\n")


def test_a_comment_reads_well() -> None:
    comment = JobIdentity("hpc", "shared", "chat-0-g7", 7).comment
    assert comment == "tidegate cluster=hpc pool=shared replica=chat-0-g7 generation=7"
    assert parse_comment(comment + " and=more") == JobIdentity("hpc", "shared", "chat-0-g7", 7)


@pytest.mark.parametrize(
    "comment",
    ["", "tidegate", "my tidegate cluster=a pool=b replica=c generation=1", "tidegate cluster=a pool=b replica=c",
     "tidegate cluster=a pool=b replica=c generation=x", "tidegate cluster= pool=b replica=c generation=1",
     "tidegate cluster=a pool=b replica=c generation=1x", "tidegate cluster=a pool=b replica=c generation=٣"],
)  # fmt: skip
def test_anybody_elses_comment_is_nobodys(comment: str) -> None:
    assert parse_comment(comment) is None


@given(st.text())
def test_no_comment_is_an_error(comment: str) -> None:
    parse_comment(comment)
