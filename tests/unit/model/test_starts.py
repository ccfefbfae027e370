"""Which of the learned starts tell how long one in a certain place takes to load."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from broker.model import wire
from broker.model.starts import StartPlace, StartTime, StartTimes, loads_like

H100, H100_CACHED = StartPlace("gpu:h100"), StartPlace("gpu:h100", weights_cached=True)
A100, A100_CACHED = StartPlace("gpu:a100"), StartPlace("gpu:a100", weights_cached=True)
UNTOLD = StartPlace()


@dataclass(frozen=True)
class Case:
    name: str
    starts: dict[StartPlace, list[float]]
    place: StartPlace
    loads: set[float]


CASES = [
    Case("nothing is known", {}, H100, set()),
    Case(
        "five of just this place are enough",
        {H100: [100.0] * 5, A100: [200.0] * 9, H100_CACHED: [10.0] * 9}, H100, {100.0},
    ),
    Case("so are five with the weights cached", {H100_CACHED: [10.0] * 5, H100: [100.0] * 9}, H100_CACHED, {10.0}),
    Case(
        "else all kinds of nodes that had to fetch them",
        {H100: [100.0] * 4, A100: [200.0], A100_CACHED: [20.0] * 9}, H100, {100.0, 200.0},
    ),
    Case(
        "else all kinds of nodes that had them",
        {H100_CACHED: [10.0], A100_CACHED: [20.0] * 4, A100: [200.0] * 9}, H100_CACHED, {10.0, 20.0},
    ),
    Case("a kind of node that was never seen", {H100: [100.0] * 5}, A100, {100.0}),
    Case("where hardly any had to fetch them: all", {H100: [100.0] * 2, H100_CACHED: [10.0] * 62}, H100, {100.0, 10.0}),
    Case("too few: what there is", {H100: [100.0], A100_CACHED: [20.0]}, H100, {100.0, 20.0}),
    Case("where nobody tells places all are alike", {UNTOLD: [50.0] * 5}, UNTOLD, {50.0}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_loads_are_taken_from_the_nearest_places_that_are_known_well_enough(case: Case) -> None:
    starts = [StartTime(0.0, 0.0, load_s, place) for place, loads in case.starts.items() for load_s in loads]
    assert set(loads_like(starts, case.place)) == case.loads


def test_starts_that_an_earlier_release_wrote_down_are_read_as_of_no_known_place() -> None:
    written = {"pool_id": "gpu", "model_id": "chat", "gpus": 1, "latest": [{"at": 1.0, "queue_s": 2.0, "load_s": 3.0}]}
    read: StartTimes = wire.decode(StartTimes, written)
    assert read.latest == (StartTime(1.0, 2.0, 3.0, UNTOLD),)
