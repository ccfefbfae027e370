"""The wall time that is asked for, before maintenance that is announced."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actuators.slurm.client import PartitionFacts, ReservationFacts
from actuators.slurm.wall_time import MARGIN_S, fitted_limit_s
from broker.model.errors import ActionRejected, CapacityUnavailable

NOW = 1_700_000_000.0
HOUR = 3600.0
PARTITION = PartitionFacts("gpu", True, 2, 24 * HOUR, None)
ALL = ("n1", "n2")


def maintenance(
    after_s: float, nodes: tuple[str, ...] = ALL, *, partition: str | None = None, of_us: bool = True
) -> ReservationFacts:
    return ReservationFacts("m1", NOW + after_s, NOW + after_s + 8 * HOUR, nodes, partition, of_us)


FITTED = [
    ("nothing is announced", 4 * HOUR, (), 4 * HOUR),
    ("it is over before", 4 * HOUR, (maintenance(5 * HOUR),), 4 * HOUR),
    ("it is shortened", 4 * HOUR, (maintenance(3 * HOUR),), 3 * HOUR - MARGIN_S),
    ("the next one counts", 4 * HOUR, (maintenance(3 * HOUR), maintenance(2 * HOUR)), 2 * HOUR - MARGIN_S),
    ("some nodes stay free", 4 * HOUR, (maintenance(HOUR, ("n1",)),), 4 * HOUR),
    ("another partition's", 4 * HOUR, (maintenance(HOUR, partition="cpu"),), 4 * HOUR),
    ("a reservation of somebody", 4 * HOUR, (maintenance(HOUR, of_us=False),), 4 * HOUR),
    ("one that is over", 4 * HOUR, (maintenance(-9 * HOUR),), 4 * HOUR),
    ("the partition gives less", 48 * HOUR, (), 24 * HOUR),
    ("whole minutes", 4 * HOUR, (maintenance(3 * HOUR + 59),), 3 * HOUR - MARGIN_S),
]


@pytest.mark.parametrize(("limit_s", "announced", "fitted_s"), [f[1:] for f in FITTED], ids=[f[0] for f in FITTED])
def test_a_limit_is_fitted(limit_s: float, announced: tuple[ReservationFacts, ...], fitted_s: float) -> None:
    assert fitted_limit_s(limit_s, NOW, announced, PARTITION, least_s=0.5 * HOUR) == fitted_s


def test_too_little_is_refused_with_the_maintenance_and_its_end() -> None:
    with pytest.raises(CapacityUnavailable, match=r"maintenance m1 of partition gpu lasts from 22:43:20 UTC to"):
        fitted_limit_s(4 * HOUR, NOW, (maintenance(0.5 * HOUR),), PARTITION, least_s=HOUR)
    with pytest.raises(CapacityUnavailable, match="maintenance m1"):
        fitted_limit_s(4 * HOUR, NOW, (maintenance(-HOUR),), PARTITION, least_s=60)


def test_a_limit_that_is_never_of_use_is_refused_with_how_to_mend_it() -> None:
    with pytest.raises(ActionRejected, match="mend time_limit or partition of the pool"):
        fitted_limit_s(60, NOW, (), PARTITION, least_s=HOUR)


@given(
    limit_s=st.floats(60, 1e6), starts=st.lists(st.floats(-1e6, 1e6), max_size=4), least_s=st.floats(0, 1e5)
)  # fmt: skip
def test_a_fitted_job_never_meets_a_maintenance(limit_s: float, starts: list[float], least_s: float) -> None:
    announced = tuple(maintenance(start) for start in starts)
    try:
        fitted_s = fitted_limit_s(limit_s, NOW, announced, PARTITION, least_s=least_s)
    except (CapacityUnavailable, ActionRejected):
        return
    assert least_s <= fitted_s <= limit_s
    assert fitted_s % 60 == 0
    for reservation in announced:
        assert reservation.end_at <= NOW or NOW + fitted_s <= reservation.start_at
