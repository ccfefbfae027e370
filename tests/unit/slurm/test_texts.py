from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actuators.slurm.job import JobState
from actuators.slurm.states import state_of
from actuators.slurm.texts import hosts, minutes_up, moment, number, output_path, seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("(null)", ()),
        ("n1", ("n1",)),
        ("n[1-3]", ("n1", "n2", "n3")),
        ("n[08-10],m1", ("n08", "n09", "n10", "m1")),
        ("gpu[1,3-4]-ib", ("gpu1-ib", "gpu3-ib", "gpu4-ib")),
        ("r[1-2]n[1-2]", ("r1n1", "r1n2", "r2n1", "r2n2")),
    ],
)
def test_a_list_of_hosts_is_spread(text: str, expected: tuple[str, ...]) -> None:
    assert hosts(text) == expected


@pytest.mark.parametrize("text", ["n[1-", "n[a-b]", "n]1["])
def test_what_is_no_list_of_hosts_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="hosts"):
        hosts(text)


@given(st.integers(0, 365), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_durations_are_read_as_slurm_writes_them(days: int, hours: int, minutes: int, rest: int) -> None:
    expected = days * 86400 + hours * 3600 + minutes * 60 + rest
    assert seconds(f"{days}-{hours:02d}:{minutes:02d}:{rest:02d}") == expected
    if not days:
        assert seconds(f"{hours}:{minutes:02d}:{rest:02d}") == expected


@given(st.floats(0.0, 1e7))
def test_minutes_cover_the_time_asked_for_and_are_never_none(limit_s: float) -> None:
    minutes = minutes_up(limit_s)
    assert minutes >= 1
    assert limit_s <= minutes * 60 < max(60.0, limit_s) + 60.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5.0),
        ({"set": True, "infinite": False, "number": 5}, 5.0),
        ({"set": False, "infinite": False, "number": 0}, None),
        ({"set": False, "infinite": True, "number": 0}, None),
        ({"number": 7}, 7.0),
        (None, None),
        (-1, None),
        (0xFFFFFFFE, None),
        (0xFFFFFFFF, None),
        (float("nan"), None),
        (float("inf"), None),
    ],
)
def test_numbers_of_all_parsers_are_read(value: object, expected: float | None) -> None:
    assert number(value) == expected


def test_zero_is_no_moment_and_a_word_no_number() -> None:
    assert moment(0) is None
    with pytest.raises(ValueError, match="no number"):
        number("soon")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("/l/%j.out", "/l/17.out"), ("%x-%6j.%N", "tg-a-000017.n1"), ("/l/100%%", "/l/100%"), ("/l/plain", "/l/plain")],
)
def test_a_pattern_of_a_file_is_filled_in(pattern: str, expected: str) -> None:
    assert output_path(pattern, 17, "tg-a", "tide", "n1") == expected


@pytest.mark.parametrize(
    ("names", "state"),
    [
        (["RUNNING"], JobState.RUNNING),
        (["CANCELLED", "COMPLETING"], JobState.CANCELLED),
        (["COMPLETING"], JobState.ENDING),
        (["RUNNING", "CONFIGURING"], JobState.RUNNING),
        (["REQUEUED", "COMPLETING"], JobState.PENDING),
    ],
)
def test_a_state_is_its_base_and_its_flags(names: list[str], state: JobState) -> None:
    assert state_of(names)[0] is state
    assert state_of(names)[1] == {name for name in names if name not in JobState.__members__}


@pytest.mark.parametrize("names", [[], ["BEYOND"], ["RUNNING", "BEYOND"]])
def test_an_unknown_state_is_no_state(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"BEYOND|without a state"):
        state_of(names)
